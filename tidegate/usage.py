"""How much memory a command and everything that it started took at most."""

import os
import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Final

_PERIOD_S: Final = 0.5
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")


class PeakMemory:
    """Samples the resident memory of this process and its descendants while the block runs."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, resident_bytes(os.getpid()))
            if self._stop.wait(_PERIOD_S):
                return


def resident_bytes(root: int) -> int:
    """Return the resident memory of a process and its descendants; pages that they share count twice."""
    if not _PROC.is_dir():  # not Linux: the largest child, and this process
        scale = 1 if sys.platform == "darwin" else 1024
        whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(resource.getrusage(who).ru_maxrss for who in whose) * scale
    parents, resident = {}, {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                # The command, in brackets, may hold blanks; the parent is the second field behind it.
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
                resident[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * _PAGE
            except (OSError, IndexError, ValueError):
                continue  # it ended between the listing and the reading
    return sum(size for process, size in resident.items() if _descends(process, root, parents))


def _descends(process: int, root: int, parents: dict[int, int]) -> bool:
    while process > 1:
        if process == root:
            return True
        process = parents.get(process, 0)
    return process == root
