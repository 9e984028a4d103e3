"""How events get into the ledger's table: what is new is inserted, what is there already must be the same."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Final

from ledger.events import Event, EventKind
from ledger.keys import KeyRing
from ledger.sealing import INSERT, Row, digest_of, event_of, keys_for, to_row
from moderation.errors import PermanentError

# Rows of one statement: large enough that statements cost nothing, small enough that memory stays flat.
ROWS: Final = 1_000


_INSERTED: Final = (
    "event_id, kind, submission_id, key_id, occurred_us, recorded_us, trace_id, digest, payload"
)


class LedgerConflict(PermanentError):
    """An event id is taken by another content; use a new id for a new event."""

    def __init__(self, event_id: str) -> None:
        super().__init__(f"event {event_id} is in the ledger already, with another content")
        self.event_id = event_id


class TraceTaken(PermanentError):
    """Another decision carries this trace id; decide under a fresh one."""


class Moved(StrEnum):
    """What became of rows that were moved into the ledger as they are."""

    NEW = "new"
    THERE = "there"
    """The same was in the ledger already."""

    ERASED = "erased"
    """Of a seller that was erased meanwhile: only ids and places are kept."""

    CONFLICT = "conflict"
    """An id is taken by another content; nothing was moved."""

    TRACE_TAKEN = "trace taken"
    """Another decision carries the trace id; nothing was moved."""


def add(connection: sqlite3.Connection, events: Iterable[Event], ring: KeyRing) -> int:
    """Insert what is new and return its count.

    Raises:
        LedgerConflict: if an event id is taken by another content.
        TraceTaken: if a decision's trace id belongs to another decision.
    """
    return sum(_insert(connection, chunk, ring) for chunk in _chunks(events))


def add_each(
    connection: sqlite3.Connection, batches: Sequence[Sequence[Event]], ring: KeyRing
) -> list[int | Exception]:
    """Insert each batch whole or not at all; return for each its count of new events, or why it was refused."""
    for chunk in _chunks(event for batch in batches for event in batch):
        _make_keys(connection, chunk, ring)
    return [_add_apart(connection, batch, ring) for batch in batches]


def move(connection: sqlite3.Connection, rows: Sequence[Row], ring: KeyRing) -> Moved:
    """Insert rows of `INSERT`, sealed long ago, all or none."""
    ids = [row[0] for row in rows]
    marks = ",".join("?" * len(ids))
    query = f"SELECT {_INSERTED} FROM events WHERE event_id IN ({marks})"
    there: dict[str, Row] = {row[0]: row for row in connection.execute(query, ids)}
    key_ids = {row[3] for row in (*rows, *there.values()) if row[3] is not None}
    live = ring.live(key_ids)
    for row in rows:
        if row[0] in there and not _is_same(row, there[row[0]], ring, live):
            return Moved.CONFLICT
    fresh = [row for row in rows if row[0] not in there]
    erased = [row for row in fresh if row[3] is not None and row[3] not in live]
    # What is erased keeps its id and its place alone; a trace that nobody may follow must not take another's.
    fresh = [(*row[:6], None, *row[7:]) if row in erased else row for row in fresh]
    connection.execute("SAVEPOINT batch")
    try:
        connection.executemany(INSERT, fresh)
    except sqlite3.IntegrityError as error:
        connection.execute("ROLLBACK TO batch")
        if "trace_id" not in str(error):
            raise
        return Moved.TRACE_TAKEN
    finally:
        if connection.in_transaction:
            connection.execute("RELEASE batch")
    if any(row[3] is not None and row[3] not in live for row in rows):
        return Moved.ERASED
    return Moved.NEW if fresh else Moved.THERE


def _is_same(row: Row, kept: Row, ring: KeyRing, live: Collection[str]) -> bool:
    """Return whether a row says what the ledger holds under its id; of what was erased nothing can be said.

    A decision is the same when its id is: one that was spilled may have reached the ledger after all, without the word
    that it was spilled, or under another trace.
    """
    if any(one is not None and one not in live for one in (row[3], kept[3])):
        return True
    if (row[3], row[7]) == (kept[3], kept[7]):
        return True
    if row[3] != kept[3] or row[1] != EventKind.DECISION:
        return False
    mine, other = event_of(row, ring), event_of(kept, ring)
    return bool(mine.payload["decision_id"] == other.payload["decision_id"])


def _add_apart(
    connection: sqlite3.Connection, batch: Sequence[Event], ring: KeyRing
) -> int | Exception:
    connection.execute("SAVEPOINT batch")
    try:
        added = add(connection, batch, ring)
    except (PermanentError, sqlite3.IntegrityError) as error:
        connection.execute("ROLLBACK TO batch")
        connection.execute("RELEASE batch")
        return error if isinstance(error, PermanentError) else PermanentError(str(error))
    connection.execute("RELEASE batch")
    return added


def _make_keys(connection: sqlite3.Connection, events: list[Event], ring: KeyRing) -> None:
    """Make the keys of a whole group at once: each transaction of keys waits for the disk."""
    there = _there(connection, events)
    keys_for((event for event in events if event.event_id not in there), ring)


def _there(connection: sqlite3.Connection, events: list[Event]) -> set[str]:
    marks = ",".join("?" * len(events))
    query = f"SELECT event_id FROM events WHERE event_id IN ({marks})"
    return {row[0] for row in connection.execute(query, [event.event_id for event in events])}


def _chunks(events: Iterable[Event]) -> Iterator[list[Event]]:
    iterator = iter(events)
    while chunk := list(islice(iterator, ROWS)):
        yield chunk


def _insert(connection: sqlite3.Connection, events: list[Event], ring: KeyRing) -> int:
    """Insert what is new and return its count; what was there already, in the ledger or in the batch, must be the same.

    Keys are made for new events alone: one that was erased must not bring its seller back.
    """
    there = _there(connection, events)
    fresh = [event for event in events if event.event_id not in there]
    keys = keys_for(fresh, ring)
    rows = [to_row(event, event.payload_json(), keys[event.seller_id]) for event in fresh]
    before = connection.total_changes
    try:
        connection.executemany(INSERT, rows)
    except sqlite3.IntegrityError as error:
        if "trace_id" in str(error):
            raise TraceTaken("a decision of this batch carries a trace id that is taken") from error
        raise
    added = connection.total_changes - before
    if added < len(events):
        _check_same(connection, events, ring)
    return added


def _check_same(connection: sqlite3.Connection, events: list[Event], ring: KeyRing) -> None:
    """Refuse events whose id holds another content; what was erased holds none that could be compared."""
    marks = ",".join("?" * len(events))
    query = f"SELECT event_id, key_id, digest FROM events WHERE event_id IN ({marks})"
    kept = {row[0]: row[1:] for row in connection.execute(query, [e.event_id for e in events])}
    live = ring.live({key_id for key_id, _ in kept.values() if key_id is not None})
    for event in events:
        key_id, digest = kept[event.event_id]
        if key_id is not None and key_id not in live:
            continue
        key = None if key_id is None else live[key_id]
        if digest_of(event, event.payload_json(), key) != digest:
            raise LedgerConflict(event.event_id)
