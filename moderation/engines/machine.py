"""The kind of processor that a comparison was made on: what chooses a library's kernels, and so their roundings."""

import platform
from pathlib import Path
from typing import Final

_TELLING: Final = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
    "asimddp",
    "bf16",
    "i8mm",
)
"""Instructions by which kernels of fp32, bf16 and int8 differ; without VNNI, int8 products may saturate."""

_CPU_INFO: Final = Path("/proc/cpuinfo")


def processor_kind(cpu_info: Path = _CPU_INFO) -> str:
    """Return architecture and telling instructions, such as `x86_64 avx2 avx512f`; the same on every machine alike.

    Args:
        cpu_info: what Linux says of its processors; elsewhere only the architecture is known.
    """
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        lines = []
    flags = {
        flag
        for line in lines
        if line.lower().startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    return " ".join([platform.machine(), *(name for name in _TELLING if name in flags)])
