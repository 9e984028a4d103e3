"""Keys of sellers: what belongs to a seller is sealed under the seller's key, and a destroyed key erases it everywhere.

The keys of a home lie in one SQLite file beside the ledger. Whoever can read that file can read everything; a copy of
the ledger or of the content store without it tells nothing of a seller.
"""

import hmac
import os
import secrets
import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from moderation.errors import PermanentError, TemporaryError

FILE_NAME: Final = "keys.sqlite"

SEALED_BYTES: Final = 28
"""By how much sealed bytes are longer: nonce and tag."""

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 16

# How long a writer waits for another process's transaction before it gives up.
_BUSY_S: Final = 30.0

# Keys of one statement, and keys that a process remembers from one call to the next: some 50 MB.
_AT_ONCE: Final = 1_000
_REMEMBERED: Final = 100_000

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS keys (
    seller_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL UNIQUE,
    secret BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS erasures (
    key_id TEXT PRIMARY KEY,
    seller_id TEXT,
    erased_us INTEGER NOT NULL,
    belongings TEXT,
    counts TEXT NOT NULL,
    features_us INTEGER,
    finished_us INTEGER
);
"""


class KeysUnavailable(TemporaryError):
    """The file of keys cannot be read or written now (locked, disk full); retry, nothing was kept."""


class KeysLost(PermanentError):
    """Something is sealed under a key that is neither there nor destroyed; put back the file of keys of this home."""


class SealBroken(PermanentError):
    """Sealed bytes were altered, or belong to something else; restore them from a copy."""


@dataclass(frozen=True, slots=True)
class SellerKey:
    """The key of one seller."""

    key_id: str
    """Random; stands for the seller wherever something is sealed, and says nothing once the key is gone."""

    seller_id: str
    secret: bytes = field(repr=False)
    digest_secret: bytes = field(repr=False)
    cipher: AESGCM = field(repr=False, compare=False)

    @classmethod
    def of(cls, key_id: str, seller_id: str, secret: bytes) -> "SellerKey":
        """Return a key with what is derived from its secret."""
        digest_secret = hmac.digest(secret, b"tidegate content digest", "sha256")
        return cls(key_id, seller_id, secret, digest_secret, AESGCM(secret))

    def seal(self, data: bytes, about: bytes) -> bytes:
        """Return `data` sealed; it opens only together with the same `about`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self.cipher.encrypt(nonce, data, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """Return what was sealed.

        Raises:
            SealBroken: if the bytes, or what they are about, have changed.
        """
        try:
            return self.cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError) as error:
            raise SealBroken("the sealed bytes have changed") from error

    def digest(self, data: bytes) -> bytes:
        """Return a digest that nobody can compute, or try guesses against, without the key."""
        return hmac.digest(self.digest_secret, data, "sha256")


class KeyRing:
    """The keys of a home; threads and processes may share the file.

    Nothing is created before the first key is made. A process remembers keys until one is destroyed anywhere, or they
    are too many.
    """

    def __init__(self, path: Path, *, busy_s: float | None = None) -> None:
        self._path, self._busy_s, self._lock = path, busy_s, threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._version = self._num_erased = -1
        self._by_seller: dict[str, SellerKey] = {}
        self._by_id: dict[str, SellerKey] = {}

    @property
    def is_there(self) -> bool:
        """Whether there is a file of keys."""
        return self._path.exists()

    def of(self, seller_ids: Collection[str]) -> dict[str, SellerKey]:
        """Return the keys of sellers, made where there are none; they are on the disk before this returns.

        Raises:
            KeysUnavailable: if the file cannot be written now.
        """
        with self._opened() as connection:
            missing = [one for one in dict.fromkeys(seller_ids) if one not in self._by_seller]
            self._read(connection, "seller_id", missing)
            fresh = [one for one in missing if one not in self._by_seller]
            if fresh:
                _make(connection, fresh)
                self._read(connection, "seller_id", fresh)
            return {one: self._by_seller[one] for one in seller_ids}

    def find(self, seller_id: str) -> SellerKey | None:
        """Return the key of a seller, or None.

        Raises:
            KeysUnavailable: if the file cannot be read now.
        """
        if not self._path.exists():
            return None
        with self._opened() as connection:
            if seller_id not in self._by_seller:
                self._read(connection, "seller_id", [seller_id])
            return self._by_seller.get(seller_id)

    def live(self, key_ids: Collection[str]) -> dict[str, SellerKey]:
        """Return the keys that live, by id; those that were destroyed are left out.

        Raises:
            KeysLost: if a key is not there, and nobody destroyed it.
            KeysUnavailable: if the file cannot be read now.
        """
        if not key_ids:
            return {}
        if not self._path.exists():
            raise KeysLost(f"{self._path} is not there, and what it opens is; put it back")
        with self._opened() as connection:
            wanted = dict.fromkeys(key_ids)
            self._read(connection, "key_id", [one for one in wanted if one not in self._by_id])
            found = {one: self._by_id[one] for one in wanted if one in self._by_id}
            gone = [one for one in wanted if one not in found]
            lost = set(gone) - _erased(connection, gone)
        if lost:
            raise KeysLost(
                f"{self._path} lacks {len(lost)} keys that were never destroyed, {min(lost)} among them; it is of "
                "another home, or an older copy: put back the right one"
            )
        return found

    def _read(self, connection: sqlite3.Connection, column: str, values: Collection[str]) -> None:
        for some in _chunks(values):
            rows = connection.execute(
                "SELECT seller_id, key_id, secret FROM keys"
                f" WHERE {column} IN ({','.join('?' * len(some))})",
                some,
            )
            for seller_id, key_id, secret in rows.fetchall():
                key = SellerKey.of(key_id, seller_id, secret)
                self._by_seller[seller_id] = self._by_id[key_id] = key

    def _forget(self) -> None:
        self._by_seller.clear()
        self._by_id.clear()

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, and forget what was remembered where a key was destroyed since, or where it is too much.

        Within the block nothing is forgotten: what a caller found there, or read in, it can give back.
        """
        with self._lock, translated(self._path):
            if self._connection is None or self._pid != os.getpid():  # a fork opens its own
                opened = connect(self._path, busy_s=self._busy_s)
                self._connection, self._pid, self._version = opened, os.getpid(), -1
            connection = self._connection
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                (number,) = connection.execute("SELECT COUNT(*) FROM erasures").fetchone()
                if number != self._num_erased:
                    self._forget()
                self._version, self._num_erased = version, number
            if len(self._by_id) > _REMEMBERED:
                self._forget()
            yield connection


def connect(path: Path, *, busy_s: float | None = None) -> sqlite3.Connection:
    """Return a connection to a file of keys, made for its owner alone where it is missing.

    What is deleted is overwritten, and every transaction is on the disk when it is committed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    connection = sqlite3.connect(
        path,
        timeout=_BUSY_S if busy_s is None else busy_s,
        isolation_level=None,
        check_same_thread=False,
    )
    if is_new:  # still empty; opening it otherwise than by SQLite would take SQLite's locks away
        path.chmod(0o600)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    connection.executescript(_SCHEMA)
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Do all of a block, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; what is locked or full now may work later."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise KeysUnavailable(str(error), file=path) from error
    except sqlite3.DatabaseError as error:
        raise PermanentError(f"{path}: {error}") from error


def _make(connection: sqlite3.Connection, seller_ids: list[str]) -> None:
    """Make keys in one transaction; where another process was faster, its keys hold."""
    rows = [
        (one, secrets.token_hex(_ID_BYTES), secrets.token_bytes(_KEY_BYTES)) for one in seller_ids
    ]
    with transaction(connection):
        connection.executemany("INSERT OR IGNORE INTO keys VALUES (?, ?, ?)", rows)


def _erased(connection: sqlite3.Connection, key_ids: list[str]) -> set[str]:
    found: set[str] = set()
    for some in _chunks(key_ids):
        marks = ",".join("?" * len(some))
        query = f"SELECT key_id FROM erasures WHERE key_id IN ({marks})"
        found |= {key_id for (key_id,) in connection.execute(query, some)}
    return found


def _chunks(values: Collection[str]) -> Iterator[list[str]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, _AT_ONCE)):
        yield chunk
