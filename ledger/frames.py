"""Frames of a spill: each has its length and a digest, so that what a crash or a full disk tore is not taken for whole.

A file begins with a random salt, which goes into every digest: bytes that somebody uploads can never look like a frame
of a file that was torn. A frame holds the rows that were given together, or one blob, sealed already.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.sealing import Row
from moderation.errors import PermanentError

SALT_BYTES: Final = 16

_MAGIC: Final = b"TgS1"
_HEAD: Final = struct.Struct("<4sI32s")
_LENGTH: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes for the content store, as they are to lie there."""

    digest: str
    """SHA-256 in hex of what is sealed."""

    key_id: str | None
    data: bytes


Entry = tuple[Row, ...] | Blob
"""Rows of the ledger that belong together, in their order; or a blob."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame of a file."""

    offset: int
    data: bytes
    """With its head."""

    def entry(self) -> Entry:
        """Return what it holds."""
        return decode(self.data)


@dataclass(frozen=True, slots=True)
class Scan:
    """What a file of frames holds."""

    frames: tuple[Frame, ...]
    damaged: tuple[bytes, ...]
    """Stretches before a whole frame that are none: the disk has changed them."""

    torn: int
    """Bytes behind the last whole frame: what was being written, and nobody was told that it was kept."""


def encode(entry: Entry) -> bytes:
    """Return an entry as the body of a frame."""
    if isinstance(entry, Blob):
        meta: object = {"blob": entry.digest, "key_id": entry.key_id}
        parts = [entry.data]
    else:
        meta = {"rows": [_fields(row) for row in entry]}
        parts = [_as_bytes(row[8]) for row in entry]
    head = json.dumps(meta, separators=(",", ":")).encode()
    return b"".join((_LENGTH.pack(len(head)), head, *parts))


def framed(body: bytes, salt: bytes) -> bytes:
    """Return a body as a frame of the file that begins with `salt`."""
    return _HEAD.pack(_MAGIC, len(body), _digest(body, salt)) + body


def decode(frame: bytes) -> Entry:
    """Return the entry of a whole frame.

    Raises:
        PermanentError: if it was not made by `encode`.
    """
    body = memoryview(frame)[_HEAD.size :]
    try:
        (size,) = _LENGTH.unpack_from(body)
        meta = json.loads(bytes(body[_LENGTH.size : _LENGTH.size + size]))
        data = bytes(body[_LENGTH.size + size :])
        if "blob" in meta:
            return Blob(meta["blob"], meta["key_id"], data)
        return tuple(_rows(meta["rows"], data))
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise PermanentError(f"a frame of the spill is of another release: {error}") from error


def scan(data: bytes) -> Scan:
    """Return the whole frames of a file's bytes, and what else is in it."""
    frames, damaged = list[Frame](), list[bytes]()
    offset = searched = min(SALT_BYTES, len(data))
    salt = data[:offset]
    while offset < len(data):
        begin = data.find(_MAGIC, searched)
        if begin < 0:
            break
        size = _whole(data, begin, salt)
        if size is None:
            searched = begin + 1
            continue
        if begin > offset:
            damaged.append(data[offset:begin])
        frames.append(Frame(begin, data[begin : begin + size]))
        offset = searched = begin + size
    return Scan(tuple(frames), tuple(damaged), len(data) - offset)


def _whole(data: bytes, offset: int, salt: bytes) -> int | None:
    """Return the size of the frame at `offset` with its head, or None where there is none."""
    if len(data) - offset < _HEAD.size:
        return None
    _, length, digest = _HEAD.unpack_from(data, offset)
    begin = offset + _HEAD.size
    body = data[begin : begin + length]
    is_whole = len(body) == length and _digest(body, salt) == digest
    return _HEAD.size + length if is_whole else None


def _digest(body: bytes, salt: bytes) -> bytes:
    return hashlib.sha256(salt + body).digest()


def _fields(row: Row) -> list[object]:
    *plain, digest, payload = row
    return [*plain, digest.hex(), len(_as_bytes(payload)), isinstance(payload, str)]


def _as_bytes(payload: str | bytes) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


def _rows(fields: Sequence[list[object]], data: bytes) -> Iterator[Row]:
    begin = 0
    for *plain, digest, size, is_text in fields:
        payload = data[begin : begin + int(str(size))]
        begin += len(payload)
        yield (*plain, bytes.fromhex(str(digest)), payload.decode() if is_text else payload)
