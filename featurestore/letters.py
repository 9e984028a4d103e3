"""What the feature stream keeps of itself: how far it has come, and which events it refused and why.

No content of an event is kept here; that stays in the ledger.
"""

import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

from ledger.events import StoredEvent, from_microseconds, to_microseconds
from moderation.errors import TemporaryError

RECORDS_PREFIX: Final = "records_"
"""Of the tables of the stream of decisions and truths."""

_BUSY_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS {prefix}dead_letters (
    sequence INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    refused_us INTEGER NOT NULL,
    replayed_us INTEGER
);
CREATE TABLE IF NOT EXISTS {prefix}progress (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    past INTEGER NOT NULL,
    sequence INTEGER NOT NULL
);
"""


class Reason(StrEnum):
    """Why an event was refused."""

    SCHEMA = "schema"
    """Its content is not what its kind must hold: another release upstream, or a fault."""

    FUTURE = "future"
    """It carries a time that has not come yet."""

    LATE = "late"
    """It was recorded long after it happened: the clock behind it is wrong, or it was held up."""

    NULL_FLOOD = "null_flood"
    """A field that is usually there was missing in many events at once."""


@dataclass(frozen=True)
class DeadLetter:
    """One refused event."""

    sequence: int
    event_id: str
    reason: Reason
    detail: str
    refused_at: datetime
    replayed_at: datetime | None


@dataclass(frozen=True)
class Progress:
    """How far a stream has come."""

    past: int
    """Events up to this sequence were written as the past, in the order of time."""

    sequence: int
    """Events behind those, up to this sequence, were written as they came."""


class LettersUnavailable(TemporaryError):
    """The table of refused events cannot be read or written now; nothing was counted, try again."""


class DeadLetters:
    """Refused events of one reader of the ledger, in SQLite; safe to share between threads."""

    def __init__(self, path: Path, *, prefix: str = "") -> None:
        """Open the tables, and make them where they are not there.

        Args:
            path: of the file; readers may share one.
            prefix: of the tables' names; the stream of activity has none.
        """
        self._path, self._lock, self._prefix = path, threading.Lock(), prefix
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected() as connection:
            connection.executescript(_SCHEMA.format(prefix=prefix))

    def add(self, refused: Iterable[tuple[StoredEvent, Reason, str]], now: datetime) -> None:
        """Keep refused events; one that is there already stays as it is."""
        rows = [
            (stored.sequence, stored.event.event_id, reason, detail, to_microseconds(now))
            for stored, reason, detail in refused
        ]
        with self._connected() as connection:
            connection.executemany(
                f"INSERT OR IGNORE INTO {self._prefix}dead_letters (sequence, event_id, reason, detail, refused_us)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )

    def mark_replayed(self, sequences: Collection[int], now: datetime) -> None:
        """Take note that refused events were counted after all."""
        at = to_microseconds(now)
        with self._connected() as connection:
            connection.executemany(
                f"UPDATE {self._prefix}dead_letters SET replayed_us = ? WHERE sequence = ?",
                [(at, sequence) for sequence in sequences],
            )

    def forget(self, sequences: Collection[int]) -> int:
        """Remove refused events, of a seller that was erased, and return how many there were."""
        with self._connected() as connection:
            connection.execute("PRAGMA secure_delete = ON")
            before = connection.total_changes
            connection.executemany(
                f"DELETE FROM {self._prefix}dead_letters WHERE sequence = ?",
                [(one,) for one in sequences],
            )
            return connection.total_changes - before

    def waiting(self) -> list[DeadLetter]:
        """Return the refused events that were not counted since, oldest first."""
        return self._read("replayed_us IS NULL ORDER BY sequence")

    def _read(self, condition: str) -> list[DeadLetter]:
        with self._connected() as connection:
            found = connection.execute(
                "SELECT sequence, event_id, reason, detail, refused_us, replayed_us"
                f" FROM {self._prefix}dead_letters"
                f" WHERE {condition}"
            ).fetchall()
        return [
            DeadLetter(
                sequence,
                event_id,
                Reason(reason),
                detail,
                from_microseconds(refused_us),
                None if replayed_us is None else from_microseconds(replayed_us),
            )
            for sequence, event_id, reason, detail, refused_us, replayed_us in found
        ]

    def replayed(self) -> list[DeadLetter]:
        """Return the refused events that were counted after all, in the order in which they were."""
        return self._read("replayed_us IS NOT NULL ORDER BY replayed_us, sequence")

    def progress(self) -> Progress | None:
        """Return how far the stream has come; None before its first start was finished."""
        with self._connected() as connection:
            found = connection.execute(
                f"SELECT past, sequence FROM {self._prefix}progress"
            ).fetchone()
        return Progress(*found) if found else None

    def save_progress(self, progress: Progress) -> None:
        """Take note of how far the stream has come."""
        with self._connected() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO {self._prefix}progress (id, past, sequence) VALUES (1, ?, ?)",
                (progress.past, progress.sequence),
            )

    def forget_progress(self) -> None:
        """Begin anew: everything is to be read again."""
        with self._connected() as connection:
            connection.execute(f"DELETE FROM {self._prefix}progress")

    def counts(self) -> dict[Reason, int]:
        """Return how many events wait, by reason."""
        with self._connected() as connection:
            found = connection.execute(
                f"SELECT reason, COUNT(*) FROM {self._prefix}dead_letters"
                " WHERE replayed_us IS NULL GROUP BY reason"
            ).fetchall()
        return {Reason(reason): count for reason, count in found}

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                connection = sqlite3.connect(self._path, timeout=_BUSY_S)
                try:
                    with connection:
                        yield connection
                finally:
                    connection.close()
            except sqlite3.Error as error:
                raise LettersUnavailable(f"{self._path}: {error}") from error
