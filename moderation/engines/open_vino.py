"""OpenVINO on the CPU: fp32, bf16, or int8 matrix products whose inputs it quantises as it goes.

OpenVINO reports its own import to its maker unless its telemetry package is out of reach: `_load` puts it there, and
no other module imports OpenVINO.
"""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from moderation.engines.engine import Array, EngineName
from moderation.errors import BundleRejected, PermanentError

_TELEMETRY: Final = "openvino_telemetry"
_PRECISION: Final[Mapping[EngineName, str]] = {
    "openvino-f32": "f32",
    "openvino-bf16": "bf16",
    # What is not int8 stays fp32: measured, bf16 beside int8 is no faster.
    "openvino-int8": "f32",
}
_BF16: Final = "BF16"


class OpenVinoEngine:
    """One graph in OpenVINO on the CPU.

    Args:
        path: the graph; for `openvino-int8` a derived one.
        name: says the precision.
        num_threads: of one run.

    Raises:
        BundleRejected: if the file is missing or is no graph that OpenVINO runs.
        PermanentError: if OpenVINO is not installed, or the processor has no bf16.
    """

    def __init__(self, path: Path, name: EngineName, num_threads: int = 1) -> None:
        self.name = name
        core = _load().Core()
        if name == "openvino-bf16":
            _require_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        options = {
            "INFERENCE_PRECISION_HINT": _PRECISION[name],
            "INFERENCE_NUM_THREADS": num_threads,
            "NUM_STREAMS": 1,
            # Pinned threads of several towers wait for one core while others are idle: ten times the 90th percentile.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._model = core.compile_model(core.read_model(str(path)), "CPU", options)
        except RuntimeError as error:
            raise BundleRejected(
                f"{path.name} cannot be run by OpenVINO: {error}; serve it with another engine"
            ) from error
        self._outputs = [output.any_name for output in self._model.outputs]
        self._local = threading.local()

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the graph's outputs by name; each thread has a request of its own."""
        found = self._request().infer(dict(inputs), share_inputs=True)
        return {name: found[place].copy() for place, name in enumerate(self._outputs)}

    def _request(self) -> Any:
        if not hasattr(self._local, "request"):
            self._local.request = self._model.create_infer_request()
        return self._local.request


def library() -> str:
    """Return the version that computes.

    Raises:
        PermanentError: if OpenVINO is not installed.
    """
    return f"openvino {_load().__version__}"


def _require_bf16(capabilities: list[str]) -> None:
    if _BF16 not in capabilities:
        raise PermanentError(
            f"this processor has no bf16 (it has {', '.join(capabilities)}); use engine openvino-int8 or openvino-f32"
        )


def _load() -> Any:
    """Return OpenVINO, imported without its telemetry.

    Raises:
        PermanentError: if it is not installed, or was imported elsewhere before.
    """
    if "openvino" not in sys.modules:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it now fails, as if it were not there
    elif sys.modules.get(_TELEMETRY) is not None:
        raise PermanentError(
            "something else imported OpenVINO first, and so its telemetry; import it through this module only"
        )
    try:
        import openvino
    except ImportError as error:
        raise PermanentError(
            f"OpenVINO cannot be imported ({error}); install the extra `serve`, or use engine onnxruntime"
        ) from error
    return openvino
