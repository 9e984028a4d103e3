"""Files that one process replaces and others follow: written whole or not at all, read again when they change."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Facts(NamedTuple):
    """What changes with a file, whether it is replaced or written to."""

    inode: int
    changed_ns: int
    num_bytes: int


class FollowedFile:
    """A file that is looked at again and again; a look that fails is forgotten, so that the next one starts anew.

    Args:
        path: of the file, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settled: Facts | None = None

    def read(self) -> bytes | None:
        """Return the bytes of the file if it changed since they were last returned, else None.

        Raises:
            OSError: if it cannot be looked at or read now; the next call tries again.
        """
        facts = self.change()
        if facts is None:
            return None
        raw = self.path.read_bytes()
        self.settle(facts)
        return raw

    def change(self) -> Facts | None:
        """Return what the file is like if nothing settled that yet, else None.

        Raises:
            OSError: if it cannot be looked at now.
        """
        settled, self._settled = self._settled, None
        found = self.path.stat()
        facts = Facts(found.st_ino, found.st_mtime_ns, found.st_size)
        if facts != settled:
            return facts
        self._settled = settled
        return None

    def settle(self, facts: Facts) -> None:
        """Take note that what a change led to is done; until then, `change` returns it."""
        self._settled = facts


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put `content` at `path`, so that any reader finds the old or the new, also after a power cut.

    Args:
        path: of the file; its folder is made when missing.
        content: all of it.
        mode: permissions of the new file.

    Raises:
        OSError: if it cannot be written; what was there stays.
    """
    with _written(path, content, mode) as unfinished:
        unfinished.replace(path)


def create_file(path: Path, content: bytes, *, mode: int = 0o600) -> bool:
    """Put `content` at `path` as `replace_file` does, and return True; where somebody was faster, theirs stays.

    Raises:
        OSError: if it cannot be written.
    """
    with _written(path, content, mode) as unfinished:
        try:
            path.hardlink_to(unfinished)
        except FileExistsError:
            return False
    return True


def reason_of(error: OSError) -> str:
    """Return what the system says is wrong, without the name of the file."""
    return error.strerror or type(error).__name__


def sync(path: Path) -> None:
    """Bring the bytes of a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _written(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Write `content` beside `path` for the block to put it there; the name is on the disk when this ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)
    sync(path.parent)
