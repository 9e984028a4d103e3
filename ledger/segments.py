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
            raise SpillUnavailable(f"{self.path}: {error}") from error
        self.size += len(data)

    def scan(self) -> Scan:
        """Return what the file holds."""
        return scan(self.path.read_bytes())

    def delete(self) -> None:
        """Delete the file, which nobody can adopt any more then."""
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
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
        raise SpillUnavailable(f"{folder}: {error}") from error


def _begun(path: Path, descriptor: int) -> Segment:
    try:
        if os.write(descriptor, secrets.token_bytes(SALT_BYTES)) < SALT_BYTES:
            raise OSError(errno.ENOSPC, "not even a file can be begun")
        sync_folder(path.parent)
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return Segment(path, descriptor)


def adopt(folder: Path, ours: Iterable[Path]) -> Iterator[Segment]:
    """Yield the segments that no living process holds, oldest first."""
    held = set(ours)
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        if path in held:
            continue
        try:
            descriptor = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            continue
        # One that was moved away while we opened it has no name any more.
        if _lock(descriptor) and os.fstat(descriptor).st_nlink:
            yield Segment(path, descriptor)
        else:
            os.close(descriptor)


def keep_aside(segment: Segment, suffix: str, parts: Iterable[bytes]) -> None:
    """Write what must not be moved into a file beside a segment, whole or not at all; nothing where there is nothing.

    It begins with the segment's salt, as the frames in it need it.

    Raises:
        SpillUnavailable: if it cannot be written now.
    """
    data, path = b"".join(parts), segment.path
    if not data:
        return
    target, partial = path.with_suffix(suffix), path.with_suffix(f"{suffix}.partial")
    try:
        with partial.open("wb") as file:
            file.write(segment.salt + data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
        sync_folder(path.parent)
    except OSError as error:
        raise SpillUnavailable(f"{target}: {error}") from error


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
