"""Which sellers were erased, and what is still to be done about each.

An erasure begins with the destruction of the key, in one transaction with the note of what else has to go. Until it is
finished that note names the seller; afterwards nothing here does.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ledger.events import from_microseconds, to_microseconds
from ledger.keys import KeysUnavailable, SellerKey, connect, transaction, translated

_COLUMNS: Final = (
    "key_id, seller_id, erased_us, belongings, counts, features_us, finished_us FROM erasures"
)


@dataclass(frozen=True)
class Belongings:
    """What is kept of a seller elsewhere, under names that nobody knows any more once the key is gone."""

    sequences: tuple[int, ...] = ()
    """Places in the ledger."""

    submissions: tuple[str, ...] = ()
    listings: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    """What embeddings are cached by, in hex."""

    @classmethod
    def of_json(cls, text: str) -> "Belongings":
        """Return the belongings that were written as JSON."""
        return cls(**{name: tuple(values) for name, values in json.loads(text).items()})


@dataclass(frozen=True)
class Erasure:
    """One erasure, as far as it has come."""

    key_id: str
    erased_at: datetime
    """When the key was destroyed."""

    seller_id: str | None
    """None once it is finished."""

    belongings: Belongings = field(default_factory=Belongings)
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was removed, by name."""

    features_at: datetime | None = None
    """When the feature store was rid of the seller."""

    finished_at: datetime | None = None


class Erasures:
    """The erasures of a home, in its file of keys."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def destroy(
        self, key: SellerKey, belongings: Belongings, counts: Mapping[str, int], now: datetime
    ) -> Erasure:
        """Destroy a key for good, and note what else has to go.

        Raises:
            KeysUnavailable: if the file cannot be written, or another process holds on to its journal; then the
                erasure may have begun, and goes on when it is asked for again.
        """
        begun = (key.key_id, key.seller_id, to_microseconds(now))
        with self._connected() as connection, transaction(connection):
            connection.execute("DELETE FROM keys WHERE key_id = ?", (key.key_id,))
            connection.execute(
                "INSERT INTO erasures (key_id, seller_id, erased_us, belongings, counts) VALUES (?, ?, ?, ?, ?)",
                (*begun, json.dumps(asdict(belongings)), json.dumps(dict(counts))),
            )
        self.rewrite()
        return Erasure(key.key_id, now, key.seller_id, belongings, counts)

    def all(self) -> list[Erasure]:
        """Return every erasure, oldest first."""
        if not self._path.exists():
            return []
        with self._connected() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} ORDER BY erased_us, key_id").fetchall()
        return [_erasure(row) for row in rows]

    def unfinished(self, seller_id: str | None = None) -> list[Erasure]:
        """Return the erasures that are not finished, of one seller or of all.

        One that lacks its last step alone does not say whose it was, and is everybody's.
        """
        return [
            one
            for one in self.all()
            if one.finished_at is None and (seller_id is None or one.seller_id in (None, seller_id))
        ]

    def in_features(self) -> list[Erasure]:
        """Return the erasures that the writer of the feature store has not done its part of."""
        return [one for one in self.unfinished() if one.features_at is None]

    def note(self, key_id: str, counts: Mapping[str, int]) -> None:
        """Take note of what was removed; a second try finds less, so the larger number holds."""
        with self._connected() as connection, transaction(connection):
            self._add(connection, key_id, counts)

    def note_features(self, key_id: str, counts: Mapping[str, int], now: datetime) -> None:
        """Take note that the feature store is rid of the seller."""
        with self._connected() as connection, transaction(connection):
            self._add(connection, key_id, counts)
            connection.execute(
                "UPDATE erasures SET features_us = ? WHERE key_id = ? AND features_us IS NULL",
                (to_microseconds(now), key_id),
            )

    def finish(self, key_id: str, now: datetime) -> None:
        """Forget whose erasure it was, and what belonged to the seller.

        Raises:
            KeysUnavailable: as `destroy` does; call it again.
        """
        self._set(key_id, "seller_id = NULL, belongings = NULL")
        self.rewrite()
        self._set(key_id, "finished_us = ?", to_microseconds(now))

    def rewrite(self) -> None:
        """Leave nothing of what was deleted in the file or in its journal.

        Raises:
            KeysUnavailable: if a reader holds on to it for longer than writers wait.
        """
        with self._connected() as connection:
            connection.execute("VACUUM")
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            raise KeysUnavailable(
                f"{self._path}: another process holds on to what was deleted; do it again"
            )

    def _set(self, key_id: str, assigned: str, *values: int) -> None:
        with self._connected() as connection:
            connection.execute(
                f"UPDATE erasures SET {assigned} WHERE key_id = ?", (*values, key_id)
            )

    def _add(self, connection: sqlite3.Connection, key_id: str, counts: Mapping[str, int]) -> None:
        query = "SELECT counts FROM erasures WHERE key_id = ?"
        kept = json.loads(connection.execute(query, (key_id,)).fetchone()[0])
        for name, number in counts.items():
            kept[name] = max(number, kept.get(name, 0))
        connection.execute(
            "UPDATE erasures SET counts = ? WHERE key_id = ?", (json.dumps(kept), key_id)
        )

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with translated(self._path), closing(connect(self._path)) as connection:
            yield connection


def _erasure(row: tuple[Any, ...]) -> Erasure:
    key_id, seller_id, erased, belongings, counts, features, finished = row
    return Erasure(
        key_id,
        from_microseconds(erased),
        seller_id,
        Belongings.of_json(belongings) if belongings else Belongings(),
        json.loads(counts),
        None if features is None else from_microseconds(features),
        None if finished is None else from_microseconds(finished),
    )
