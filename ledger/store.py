"""The content-addressed store: bytes named by their SHA-256, written once, verified when read."""

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Final

from moderation.errors import PermanentError

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ContentMissing(PermanentError):
    """Nothing is stored under this digest; restore the store or import the bytes again."""


class ContentCorrupt(PermanentError):
    """Stored bytes do not have the digest that names them; restore them from a copy."""


class ContentStore:
    """A folder of blobs in two levels of shards; threads and processes may share it.

    Args:
        folder: created when missing.
        durable: flush each blob to the disk before `put` returns (the upload gate does; a bulk import, which can
            run again, need not).
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes) -> str:
        """Store `data` once and return its SHA-256 in hex."""
        digest = hashlib.sha256(data).hexdigest()
        path = self._path(digest)
        # A size that differs is a file torn by a power cut: write it again.
        if path.is_file() and path.stat().st_size == len(data):
            return digest
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".put-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        if self._durable:
            _sync_folder(path.parent)
        return digest

    def get(self, digest: str) -> bytes:
        """Return the bytes of `digest`.

        Raises:
            ContentMissing: if there are none.
            ContentCorrupt: if the stored bytes have changed.
        """
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise ContentMissing(f"{digest} is not in the content store") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise ContentCorrupt(f"{digest}: the stored bytes have another digest")
        return data

    def has(self, digest: str) -> bool:
        """Return whether something is stored under `digest`."""
        return self._path(digest).is_file()

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise PermanentError(f"{digest!r} is not a SHA-256 in lower-case hex")
        return self._folder / digest[:2] / digest[2:4] / digest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
