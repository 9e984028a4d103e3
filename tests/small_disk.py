"""Disks that fail: a small filesystem of its own, a file that cannot be written or opened, a lock that others hold."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_HOLD = """
import sqlite3, sys, time
for attempt in range(100):
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.1)
    try:
        connection.execute(f"PRAGMA locking_mode = {sys.argv[2]}")
        connection.execute("BEGIN EXCLUSIVE")
        break
    except sqlite3.OperationalError:
        connection.close()
        time.sleep(0.05)
else:
    sys.exit("somebody else holds it")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a filesystem of `size` ("2m"); skip the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a filesystem of its own needs the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a filesystem to its last byte with a file, which is returned."""
    path = folder / "filler"
    with path.open("ab", buffering=0) as file:
        for size in (65_536, 1_024, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Keep everybody, the administrator too, from writing a file or a folder; skip the test where nobody can."""
    mode = path.stat().st_mode
    if os.geteuid():
        path.chmod(mode & ~0o222)
    elif subprocess.run(["chattr", "+i", str(path)], check=False, capture_output=True).returncode:
        pytest.skip("this filesystem has no immutable files")
    try:
        yield
    finally:
        if os.geteuid():
            path.chmod(mode)
        else:
            subprocess.run(["chattr", "-i", str(path)], check=True)


@contextmanager
def nothing_opens() -> Iterator[None]:
    """Let this process open no file, as one that has too many open; what is open stays so, and can be looked at."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def held(path: Path, *, mode: str = "NORMAL") -> Iterator[None]:
    """Have another process hold an exclusive transaction of a SQLite file; `EXCLUSIVE` keeps readers out, too."""
    command = [sys.executable, "-c", _HOLD, str(path), mode]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.communicate("")
