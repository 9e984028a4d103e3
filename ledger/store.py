"""The content-addressed store: bytes named by their SHA-256, written once, verified when read.

What belongs to a seller lies sealed under the seller's key, in a file of its own: `<digest>.<id of the key>`. Once the
key is destroyed the bytes cannot be read any more, wherever a copy of the file may be.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.keys import FILE_NAME, SEALED_BYTES, KeyRing, SealBroken, SellerKey
from moderation.errors import PermanentError, TemporaryError
from moderation.files import reason_of, sync

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class ContentMissing(PermanentError):
    """Nothing is stored under this digest; restore the store or import the bytes again."""


class ContentCorrupt(PermanentError):
    """Stored bytes do not have the digest that names them; restore them from a copy."""


class StoreUnavailable(TemporaryError):
    """The store cannot be written now (disk full, read-only); retry, nothing was kept."""


class ContentStore:
    """A folder of blobs in two levels of shards; threads and processes may share it.

    The keys of sellers lie beside the folder.

    Args:
        folder: created when missing; where that cannot be done now, with the first blob.
        durable: flush each blob to the disk before `put` returns (the upload gate does; a bulk import, which can
            run again, need not).
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable
        self._keys = KeyRing(folder.parent / FILE_NAME)
        with suppress(OSError):  # then each blob says that it cannot be written, until one can
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, data: bytes, seller_id: str | None = None) -> str:
        """Store `data` once for each seller, None being one of them, and return its SHA-256 in hex.

        Raises:
            KeysUnavailable: if a seller's key cannot be read or made now.
            StoreUnavailable: if nothing can be written now.
        """
        digest = hashlib.sha256(data).hexdigest()
        if seller_id is None:
            path = self._path(digest)
            if not _is_there(path, len(data)):
                self._write(path, data)
            return digest
        while True:
            key = self._keys.of([seller_id])[seller_id]
            path = self._path(digest, key)
            if _is_there(path, len(data) + SEALED_BYTES):
                return digest
            self._write(path, key.seal(data, digest.encode()))
            if self._keys.live([key.key_id]):
                return digest
            path.unlink(missing_ok=True)  # the seller was erased in between: this is a new one

    def put_sealed(self, digest: str, key_id: str | None, data: bytes) -> bool:
        """Store bytes that were sealed elsewhere under a key of this home; return False where that key was destroyed.

        Args:
            digest: SHA-256 of what is sealed, in hex.
            key_id: of the key; None for bytes that belong to nobody and are not sealed.
            data: the bytes as they lie in the store.

        Raises:
            KeysLost: if the key is not there, and nobody destroyed it.
            StoreUnavailable: if nothing can be written now.
        """
        name = digest if key_id is None else f"{digest}.{key_id}"
        path = self._path(digest).with_name(name)
        if key_id is not None and not self._keys.live([key_id]):
            return False
        if not _is_there(path, len(data)):
            self._write(path, data)
        if key_id is not None and not self._keys.live([key_id]):
            path.unlink(missing_ok=True)  # the seller was erased in between
            return False
        return True

    def make_keys(self, seller_ids: Collection[str]) -> None:
        """Make the keys of sellers at once; a bulk import would wait for the disk at every new one.

        Raises:
            KeysUnavailable: if they cannot be made now.
        """
        self._keys.of(seller_ids)

    def get(self, digest: str, seller_id: str | None = None) -> bytes:
        """Return the bytes of `digest`, from whichever copy can be read.

        Args:
            digest: SHA-256 in hex.
            seller_id: whose copy is looked for first, which spares looking through the folder; None: nobody's.

        Raises:
            ContentMissing: if there are none, or those that there were are erased.
            ContentCorrupt: if the stored bytes have changed.
            KeysLost: if the key of a copy is not there, and nobody destroyed it.
        """
        is_corrupt = False
        for path, key in self._copies(digest, seller_id):
            try:
                with open(path, "rb") as file:
                    data = file.read()
                data = data if key is None else key.open(data, digest.encode())
            except FileNotFoundError:
                continue
            except SealBroken:
                is_corrupt = True
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            is_corrupt = True
        if is_corrupt:
            raise ContentCorrupt(f"{digest}: the stored bytes have another digest")
        raise ContentMissing(f"{digest} is not in the content store")

    def has(self, digest: str, seller_id: str | None = None) -> bool:
        """Return whether something that can be read is stored under `digest`; arguments as of `get`."""
        return any(os.path.isfile(path) for path, _ in self._copies(digest, seller_id))

    def sealed_under(self, key_id: str) -> list[str]:
        """Return the digests of what lies sealed under a key, dead or alive; this looks through the whole store."""
        return [path.name.partition(".")[0] for path in self._under(key_id)]

    def remove(self, key_id: str) -> int:
        """Remove what lies sealed under a key, and return how many files that were."""
        number = 0
        for path in list(self._under(key_id)):
            path.unlink(missing_ok=True)
            number += 1
        return number

    def _under(self, key_id: str) -> Iterator[Path]:
        return self._folder.glob(f"*/*/*.{key_id}")

    def _copies(self, digest: str, seller_id: str | None) -> Iterator[tuple[str, SellerKey | None]]:
        """Yield where copies may lie, and their keys; as strings, which cost less than paths."""
        plain = self._place(digest)
        yield plain, None
        own = None if seller_id is None else self._keys.find(seller_id)
        if own is not None:
            yield f"{plain}.{own.key_id}", own
        prefix = f"{digest}."
        sealed = [
            name.removeprefix(prefix)
            for name in _names(os.path.dirname(plain))
            if name.startswith(prefix)
        ]
        for key_id, key in self._keys.live(sealed).items():
            if key != own:
                yield f"{plain}.{key_id}", key

    def _write(self, path: Path, data: bytes) -> None:
        try:
            self._write_file(path, data)
        except OSError as error:
            raise StoreUnavailable(reason_of(error), file=path) from error

    def _write_file(self, path: Path, data: bytes) -> None:
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
            sync(path.parent)

    def _path(self, digest: str, key: SellerKey | None = None) -> Path:
        place = self._place(digest)
        return Path(place if key is None else f"{place}.{key.key_id}")

    def _place(self, digest: str) -> str:
        if not _DIGEST.fullmatch(digest):
            raise PermanentError(f"{digest!r} is not a SHA-256 in lower-case hex")
        return f"{self._folder}/{digest[:2]}/{digest[2:4]}/{digest}"


def _names(folder: str) -> list[str]:
    """Return what lies in a folder, not as a pattern: compiling one for every digest costs more than reading a blob."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def _is_there(path: Path, size: int) -> bool:
    """Return whether a file is whole; a size that differs is one torn by a power cut."""
    return path.is_file() and path.stat().st_size == size
