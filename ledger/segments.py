"""Files of a spill: written at their end by one process, which holds a lock on each; deleted when they were moved away.

A lock goes with its process, so that whoever comes next finds what a dead one left.
"""

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ledger.frames import SALT_BYTES, Scan, scan
from moderation.errors import TemporaryError
from moderation.files import reason_of, replace_file, sync

_SUFFIX: Final = ".spill"
QUARANTINE: Final = ".quarantine"
DAMAGED: Final = ".damaged"


class SpillUnavailable(TemporaryError):
    """The spill cannot be written either (disk full, its limit reached); nothing was accepted, repeat it."""


class Segment:
    """One file and the lock on it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        self.size = os.fstat(descriptor).st_size
        """Bytes that were written and flushed."""

        self.salt = os.pread(descriptor, SALT_BYTES, 0)
        """What the file begins with."""

        self.drained = 0
        """Up to where it was moved away, as far as this process knows."""

        self.conflicts: list[bytes] = []
        """Frames that must not be moved, as far as this process knows."""

    def write(self, data: bytes) -> None:
        """Append to the end, durably.

        Raises:
            SpillUnavailable: if that fails; the file must not be written any more then.
        """
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            # What a failed flush left on the disk is unknown; a frame that was refused should not come back.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                os.fsync(self._descriptor)
            raise SpillUnavailable(reason_of(error), file=self.path) from error
        self.size += len(data)

    def scan(self) -> Scan:
        """Return what the file holds.

        Raises:
            SpillUnavailable: if it cannot be read now.
        """
        with _translated(self.path):
            return scan(self.path.read_bytes())

    def delete(self) -> None:
        """Delete the file, which nobody can adopt any more then.

        Raises:
            SpillUnavailable: if it cannot be deleted now; it stays as it is.
        """
        with _translated(self.path):
            self.path.unlink(missing_ok=True)
        # A name that comes back after a power cut is moved once more, which changes nothing.
        with contextlib.suppress(OSError):
            sync(self.path.parent)
        self.close()

    def close(self) -> None:
        """Give back the lock."""
        os.close(self._descriptor)


def new_segment(folder: Path) -> Segment:
    """Return an empty segment behind all others.

    Raises:
        SpillUnavailable: if it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            last = max((int(path.name[:10]) for path in folder.glob(f"*{_SUFFIX}")), default=0)
            path = folder / f"{last + 1:010d}-{secrets.token_hex(4)}{_SUFFIX}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            if _lock(descriptor):
                return _begun(path, descriptor)
            os.close(descriptor)  # whoever adopts left files was quicker
    except OSError as error:
        raise SpillUnavailable(reason_of(error), file=folder) from error


def _begun(path: Path, descriptor: int) -> Segment:
    try:
        if os.write(descriptor, secrets.token_bytes(SALT_BYTES)) < SALT_BYTES:
            raise OSError(errno.ENOSPC, "not even a file can be begun")
        sync(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return Segment(path, descriptor)


def adopt(folder: Path, ours: Iterable[Path]) -> Iterator[Segment]:
    """Yield the segments that no living process holds, oldest first.

    Raises:
        SpillUnavailable: if the folder or a file cannot be read now.
    """
    held = set(ours)
    with _translated(folder):
        paths = sorted(folder.glob(f"*{_SUFFIX}"))
    for path in paths:
        if path not in held and (segment := _adopted(path)) is not None:
            yield segment


def _adopted(path: Path) -> Segment | None:
    with _translated(path):
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        # One that was moved away while we opened it has no name any more.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            return Segment(path, descriptor)
        os.close(descriptor)
        return None


def keep_aside(segment: Segment, suffix: str, parts: Iterable[bytes]) -> None:
    """Write what must not be moved into a file beside a segment, whole or not at all; nothing where there is nothing.

    It begins with the segment's salt, as the frames in it need it.

    Raises:
        SpillUnavailable: if it cannot be written now.
    """
    data, target = b"".join(parts), segment.path.with_suffix(suffix)
    if data:
        with _translated(target):
            replace_file(target, segment.salt + data, mode=0o600)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the disk's errors into ours: another try may do better."""
    try:
        yield
    except OSError as error:
        raise SpillUnavailable(reason_of(error), file=path) from error


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
