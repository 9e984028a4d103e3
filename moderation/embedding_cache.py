"""The cache of embeddings: keyed by tower, content and view, so that a day costs only its new listings."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.augment import AUGMENT_VERSION

Vector = npt.NDArray[np.float32]

_AT_ONCE: Final = 256
"""Keys of one question: a question each costs three times as much."""

_MADE: Final = b"made:"
_PAST_MADE: Final = b"made;"
"""Sorts behind every key that begins so."""

_TELLS_MADE: Final = 1
"""Version of a file whose keys say what was made; before it nothing told them apart."""


def made_key(key: bytes) -> bytes:
    """Return the key of what was made from submitted contents, such as an attacked listing, and is forgotten with any.

    Nothing in a digest says what it was made from, so that an erasure forgets all of them.
    """
    return _MADE + key


class EmbeddingCache:
    """Embeddings by tower, content and view in one SQLite file; an empty vector marks an image that cannot be read."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=60)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        if not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            self._connection.execute(f"PRAGMA user_version={_TELLS_MADE}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS embeddings (tower TEXT, content BLOB, view TEXT, vector BLOB, "
            "PRIMARY KEY (tower, content, view)) WITHOUT ROWID"
        )
        self.hits = 0
        self.misses = 0

    def get(self, tower: str, content: bytes, view: int) -> Vector | None:
        """Return a cached vector; None when it was never computed."""
        found = self._connection.execute(
            "SELECT vector FROM embeddings WHERE tower=? AND content=? AND view=?",
            (tower, content, _view_key(view)),
        ).fetchone()
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        return np.frombuffer(found[0], np.float32)

    def get_many(self, tower: str, contents: Iterable[bytes]) -> dict[bytes, Vector]:
        """Return the cached vectors of what was submitted, view 0; what was never computed is left out."""
        found: dict[bytes, Vector] = {}
        distinct = iter(dict.fromkeys(contents))
        while keys := list(islice(distinct, _AT_ONCE)):
            rows = self._connection.execute(
                "SELECT content, vector FROM embeddings WHERE tower=? AND view=? AND content IN "
                f"({','.join('?' * len(keys))})",
                (tower, _view_key(0), *keys),
            ).fetchall()
            found.update((key, np.frombuffer(vector, np.float32)) for key, vector in rows)
            self.hits += len(rows)
            self.misses += len(keys) - len(rows)
        return found

    def put(self, tower: str, entries: Sequence[tuple[bytes, int, Vector]]) -> None:
        """Keep vectors by (content, view); all of them or none."""
        with self._connection:
            self._connection.executemany(
                "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)",
                [(tower, key, _view_key(view), v.tobytes()) for key, view, v in entries],
            )

    def forget(self, contents: Iterable[bytes]) -> int:
        """Remove every vector of some contents, and return how many there were; they are overwritten in the file."""
        keys = list(dict.fromkeys(contents))
        return self._delete(
            "tower=? AND content=?", [(tower, key) for tower in self._towers() for key in keys]
        )

    def forget_made(self) -> int:
        """Remove every vector of what was made, and return how many there were; all where a file tells none apart."""
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version < _TELLS_MADE:
            number = self._delete("tower=?", [(tower,) for tower in self._towers()])
            self._connection.execute(f"PRAGMA user_version={_TELLS_MADE}")
            return number
        return self._delete(
            "tower=? AND content>=? AND content<?",
            [(tower, _MADE, _PAST_MADE) for tower in self._towers()],
        )

    def _delete(self, where: str, values: Sequence[tuple[str | bytes, ...]]) -> int:
        self._connection.execute("PRAGMA secure_delete=ON")
        before = self._connection.total_changes
        with self._connection:
            self._connection.executemany(f"DELETE FROM embeddings WHERE {where}", values)
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._connection.total_changes - before

    def _towers(self) -> list[str]:
        """Return the towers by jumping from one to the next: looking at every row would take minutes."""
        found: list[str] = []
        query = "SELECT min(tower) FROM embeddings WHERE tower > ?"
        while tower := self._connection.execute(query, (found[-1] if found else "",)).fetchone()[0]:
            found.append(tower)
        return found

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _view_key(view: int) -> str:
    """A new augmentation makes augmented views stale, never what was submitted."""
    return f"{view}:{AUGMENT_VERSION}" if view else "0"
