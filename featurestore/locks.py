"""Locks between the processes of one machine that share a feature store's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_READERS: Final = "history.lock"
_ROWS: Final = "rows.lock"


@contextmanager
def locked(path: Path, *, is_shared: bool = False) -> Iterator[None]:
    """Hold a lock for the length of the block; wait until nobody holds it otherwise.

    Args:
        path: of the lock's file, whose folder is there.
        is_shared: whether others may share it meanwhile.
    """
    held = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        fcntl.flock(held, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Keep every file of the history where it is for the length of the block.

    Args:
        folder: of the feature store.
    """
    if not folder.is_dir():  # nothing is there to be kept
        yield
        return
    with locked(folder / _READERS, is_shared=True):
        yield


@contextmanager
def swapping(folder: Path) -> Iterator[None]:
    """Be alone with the files of the history; readers that came before are waited for."""
    with locked(folder / _READERS):
        yield


@contextmanager
def writing_rows(folder: Path) -> Iterator[None]:
    """Be the one that writes, or takes away, rows of the views that no stream follows the ledger into."""
    with locked(folder / _ROWS):
        yield
