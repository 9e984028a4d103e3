"""The ledger: an append-only, ordered log of events behind one protocol; the laptop keeps it in SQLite."""

import json
import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from ledger.events import (
    Event,
    EventKind,
    StoredEvent,
    from_microseconds,
    to_decision,
    to_microseconds,
    to_submission,
)
from moderation.decision import Decision
from moderation.errors import PermanentError, TemporaryError
from moderation.listing import Submission

# Rows of one statement: large enough that statements cost nothing, small enough that memory stays flat.
_ROWS: Final = 1_000

# How long a writer waits for another process's transaction before it gives up.
_BUSY_S: Final = 30.0

# REPLACE deletes without firing delete triggers, so the insert trigger refuses to touch a taken place.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    submission_id TEXT NOT NULL,
    seller_id TEXT,
    occurred_us INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL,
    trace_id TEXT,
    digest BLOB NOT NULL,
    payload TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS events_by_trace ON events (trace_id) WHERE trace_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS events_by_time ON events (occurred_us, sequence);
CREATE TRIGGER IF NOT EXISTS events_never_change BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_never_go BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_keep_their_place BEFORE INSERT ON events
    WHEN EXISTS (SELECT 1 FROM events WHERE sequence = NEW.sequence)
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS events_come_once BEFORE INSERT ON events
    WHEN EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)
    BEGIN SELECT RAISE(IGNORE); END;
"""
_COLUMNS: Final = (
    "sequence, event_id, kind, submission_id, seller_id, occurred_us, recorded_us, payload"
)
_INSERT: Final = (
    "INSERT INTO events (event_id, kind, submission_id, seller_id, occurred_us, recorded_us, trace_id, digest, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class LedgerConflict(PermanentError):
    """An event id is taken by another content; use a new id for a new event."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"event {event_id} is in the ledger already, with another content")
        self.event_id = event_id


class TraceTaken(PermanentError):
    """Another decision carries this trace id; decide under a fresh one."""


class LedgerUnavailable(TemporaryError):
    """The ledger cannot be written or read now (locked, disk full); retry, nothing was kept."""


class Ledger(Protocol):
    """What keeps events; safe to share between threads and between processes."""

    def append(self, events: Iterable[Event]) -> int:
        """Keep all events or none, and return how many were new; one that is there already is left as it is.

        Raises:
            LedgerConflict: if an event id is taken by another content.
            TraceTaken: if a decision's trace id belongs to another decision.
            LedgerUnavailable: if nothing can be written now.
        """
        ...

    def read(
        self,
        kinds: Collection[EventKind] | None = None,
        after_sequence: int = 0,
        until: datetime | None = None,
        *,
        in_time_order: bool = False,
    ) -> Iterator[StoredEvent]:
        """Yield events in the order of their sequence, in constant memory.

        Args:
            kinds: only these; None means all.
            after_sequence: only events behind this one.
            until: only events that had occurred by then, inclusive.
            in_time_order: by `occurred_at` instead (an import records the past late).
        """
        ...

    def last_sequence(self, kinds: Collection[EventKind] | None = None) -> int:
        """Return the sequence of the newest event of some kinds, None of all; 0 where there is none."""
        ...

    def get_event(self, event_id: str) -> StoredEvent | None:
        """Return one event, or None."""
        ...

    def get_submission(self, submission_id: str) -> Submission | None:
        """Return a recorded upload, or None."""
        ...

    def get_decision(self, trace_id: str) -> Decision | None:
        """Return the decision of a trace, or None."""
        ...

    def get_decision_of(self, submission_id: str) -> Decision | None:
        """Return the decision about a submission, or None."""
        ...


class SqliteLedger:
    """The laptop's ledger: one SQLite file in WAL mode that any number of processes may write and read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        path.parent.mkdir(parents=True, exist_ok=True)
        with _translated(path):
            self._connection().executescript(_SCHEMA)

    def append(self, events: Iterable[Event]) -> int:
        """Keep all events or none in one durable transaction; see the protocol."""
        connection = self._connection()
        with _translated(self._path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                added = sum(_insert(connection, chunk) for chunk in _chunks(events))
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        return added

    def read(
        self,
        kinds: Collection[EventKind] | None = None,
        after_sequence: int = 0,
        until: datetime | None = None,
        *,
        in_time_order: bool = False,
    ) -> Iterator[StoredEvent]:
        """Yield events page by page, so that no reader holds back a writer; see the protocol."""
        where, values = ["sequence > ?"], [after_sequence]
        if kinds is not None:
            where.append(f"kind IN ({','.join('?' * len(kinds))})")
            values.extend(kinds)  # type: ignore[arg-type]  # a kind is its own SQL text
        if until is not None:
            where.append("occurred_us <= ?")
            values.append(to_microseconds(until))
        order = "occurred_us, sequence" if in_time_order else "sequence"
        behind = "(occurred_us, sequence) > (?, ?)" if in_time_order else "sequence > ?"
        query = (
            f"SELECT {_COLUMNS} FROM events WHERE {' AND '.join(where)} AND {behind}"
            f" ORDER BY {order} LIMIT {_ROWS}"
        )
        last = (-(2**63), 0) if in_time_order else (after_sequence,)
        while True:
            with _translated(self._path):
                rows = self._connection().execute(query, (*values, *last)).fetchall()
            yield from map(_stored, rows)
            if len(rows) < _ROWS:
                return
            sequence, occurred = rows[-1][0], rows[-1][5]
            last = (occurred, sequence) if in_time_order else (sequence,)

    def last_sequence(self, kinds: Collection[EventKind] | None = None) -> int:
        """Return the sequence of the newest event; see the protocol."""
        query, values = "SELECT max(sequence) FROM events", tuple(kinds or ())
        if kinds is not None:
            query += f" WHERE kind IN ({','.join('?' * len(values))})"
        with _translated(self._path):
            row = self._connection().execute(query, values).fetchone()
        return int(row[0] or 0)

    def get_event(self, event_id: str) -> StoredEvent | None:
        """Return one event, or None."""
        return self._one("event_id = ?", event_id)

    def get_submission(self, submission_id: str) -> Submission | None:
        """Return a recorded upload, or None."""
        stored = self.get_event(f"submission:{submission_id}")
        return to_submission(stored.event) if stored else None

    def get_decision(self, trace_id: str) -> Decision | None:
        """Return the decision of a trace, or None."""
        stored = self._one("trace_id = ?", trace_id)
        return to_decision(stored.event) if stored else None

    def get_decision_of(self, submission_id: str) -> Decision | None:
        """Return the decision about a submission, or None."""
        stored = self.get_event(f"decision:{submission_id}")
        return to_decision(stored.event) if stored else None

    def _one(self, condition: str, value: str) -> StoredEvent | None:
        query = f"SELECT {_COLUMNS} FROM events WHERE {condition}"
        with _translated(self._path):
            row = self._connection().execute(query, (value,)).fetchone()
        return _stored(row) if row else None

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; a forked child opens its own, as SQLite demands."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            connection = sqlite3.connect(
                self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            local.connection, local.pid = connection, os.getpid()
        opened: sqlite3.Connection = local.connection
        return opened


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, _ROWS)):
        yield chunk


def _insert(connection: sqlite3.Connection, events: list[Event]) -> int:
    """Insert what is new and return its count; compare contents only where something was there already."""
    rows = [_row(event) for event in events]
    before = connection.total_changes
    try:
        connection.executemany(_INSERT, rows)
    except sqlite3.IntegrityError as error:
        if "trace_id" in str(error):
            raise TraceTaken("a decision of this batch carries a trace id that is taken") from error
        raise
    added = connection.total_changes - before
    if added < len(rows):
        marks = ",".join("?" * len(rows))
        query = f"SELECT event_id, digest FROM events WHERE event_id IN ({marks})"
        kept = dict(connection.execute(query, [row[0] for row in rows]))
        for row in rows:
            if kept[row[0]] != row[7]:
                raise LedgerConflict(row[0])
    return added


def _row(event: Event) -> tuple[Any, ...]:
    payload = event.payload_json()
    return (
        event.event_id,
        event.kind.value,
        event.submission_id,
        event.seller_id,
        to_microseconds(event.occurred_at),
        to_microseconds(event.recorded_at),
        event.payload.get("trace_id") if event.kind is EventKind.DECISION else None,
        event.content_digest(payload),
        payload,
    )


def _stored(row: tuple[Any, ...]) -> StoredEvent:
    sequence, event_id, kind, submission_id, seller_id, occurred, recorded, payload = row
    event = Event(
        event_id,
        EventKind(kind),
        submission_id,
        seller_id,
        from_microseconds(occurred),
        from_microseconds(recorded),
        json.loads(payload),
    )
    return StoredEvent(sequence, event)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; what is locked or full now may work later."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerUnavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise PermanentError(f"{path}: {error}") from error
