"""The ledger: an append-only, ordered log of events behind one protocol; the laptop keeps it in SQLite."""

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from ledger.erasures import Belongings, Erasure, Erasures
from ledger.events import (
    Event,
    EventKind,
    StoredEvent,
    to_decision,
    to_microseconds,
    to_submission,
)
from ledger.keys import FILE_NAME, KeyRing, KeysLost, SellerKey
from ledger.sealing import COLUMNS, Row, readable
from ledger.writing import ROWS, LedgerConflict, Moved, TraceTaken, add, add_each, move
from moderation.decision import Decision
from moderation.errors import PermanentError, TemporaryError
from moderation.listing import Submission

BUSY_S: Final = 30.0
"""How long a writer waits for another process's transaction before it gives up, where nobody says otherwise."""

_NEWEST_ROWS: Final = 8
"""Rows that are looked at together for the newest one: the first can nearly always be read."""

__all__ = [
    "Ledger",
    "LedgerConflict",
    "LedgerUnavailable",
    "SqliteLedger",
    "TraceTaken",
    "UnknownSeller",
]

# REPLACE deletes without firing delete triggers, so the insert trigger refuses to touch a taken place.
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    submission_id TEXT NOT NULL,
    key_id TEXT,
    occurred_us INTEGER NOT NULL,
    recorded_us INTEGER NOT NULL,
    trace_id TEXT,
    digest BLOB NOT NULL,
    payload BLOB NOT NULL
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


class LedgerUnavailable(TemporaryError):
    """The ledger cannot be written or read now (locked, disk full); retry, nothing was kept."""


class UnknownSeller(PermanentError):
    """Nothing was ever kept of this seller, or it is erased already; look at the id."""


class Ledger(Protocol):
    """What keeps events; safe to share between threads and between processes.

    What names a seller is sealed under the seller's key. Events of a seller that was erased are passed over by all that
    reads, as if they were not there; their ids and their places stay taken.
    """

    @property
    def erasures(self) -> Erasures:
        """Which sellers were erased, and what is still to be done about each."""
        ...

    def append(self, events: Iterable[Event]) -> int:
        """Keep all events or none, and return how many were new; one that is there already is left as it is.

        That holds for an event that was erased, too: its id is taken for good, and its content can be compared with
        nothing.

        Raises:
            KeysLost: if there are sealed events, and the file of keys is gone.
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
        since: datetime | None = None,
        in_time_order: bool = False,
    ) -> Iterator[StoredEvent]:
        """Yield events in the order of their sequence, in constant memory.

        Args:
            kinds: only these; None means all.
            after_sequence: only events behind this one.
            until: only events that had occurred by then, inclusive.
            since: only events that occurred later.
            in_time_order: by `occurred_at` instead (an import records the past late).
        """
        ...

    def last_sequence(self, kinds: Collection[EventKind] | None = None) -> int:
        """Return the sequence of the newest event of some kinds, None of all; 0 where there is none."""
        ...

    def num_events(self, kinds: Collection[EventKind], *, since: datetime | None = None) -> int:
        """Return how many events of some kinds there are, those of erased sellers too.

        Args:
            kinds: which.
            since: only events that occurred later.
        """
        ...

    def newest_at(self, kinds: Collection[EventKind]) -> datetime | None:
        """Return when the newest event of some kinds occurred that can still be read; None: there is none."""
        ...

    def is_erased(self, event_id: str) -> bool:
        """Return whether there was an event of this id, of a seller that was erased."""
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
    """The laptop's ledger: one SQLite file in WAL mode that any number of processes may write and read.

    The keys of sellers lie beside it, in a file of their own. Opening a ledger without the keys that it was sealed with
    raises KeysLost: a writer would seal on under keys that part from the rest for good.

    Args:
        path: of the file, made when missing.
        busy_s: how long a writer waits for another process's transaction before it gives up.
        may_be_late: open even where the file cannot be read or written now; until it can, every call raises.

    Raises:
        LedgerUnavailable: if the file cannot be opened now.
    """

    def __init__(self, path: Path, *, busy_s: float = BUSY_S, may_be_late: bool = False) -> None:
        self._path, self._busy_s = path, busy_s
        self._keys = KeyRing(path.with_name(FILE_NAME), busy_s=busy_s)
        self._erasures = Erasures(path.with_name(FILE_NAME))
        self._local, self._is_prepared = threading.local(), False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _translated(path):
                self._connection()
        except (LedgerUnavailable, OSError):
            if not may_be_late:
                raise

    @property
    def erasures(self) -> Erasures:
        """Which sellers were erased; see the protocol."""
        return self._erasures

    def append(self, events: Iterable[Event]) -> int:
        """Keep all events or none in one durable transaction; see the protocol."""
        with self._writing() as connection:
            if not self._keys.is_there:
                self._check_keys(connection)
            added = add(connection, events, self._keys)
            connection.execute("COMMIT")
        return added

    def append_each(self, batches: Sequence[Sequence[Event]]) -> list[int | Exception]:
        """Keep the batches of several callers in one durable transaction, each whole or not at all.

        Returns:
            for each batch how many of its events were new, or the LedgerConflict or TraceTaken that is its alone.

        Raises:
            KeysLost: as `append` does.
            LedgerUnavailable: if nothing can be written now; nothing of any batch was kept.
        """
        with self._writing() as connection:
            if not self._keys.is_there:
                self._check_keys(connection)
            outcomes = add_each(connection, batches, self._keys)
            connection.execute("COMMIT")
        return outcomes

    def move_each(self, batches: Sequence[Sequence[Row]]) -> list[Moved]:
        """Move rows in that were sealed elsewhere under keys of this home; each batch whole or not at all.

        Raises:
            KeysLost: if a key is not there, and nobody destroyed it.
            LedgerUnavailable: if nothing can be written now; nothing was moved.
        """
        with self._writing() as connection:
            outcomes = [move(connection, rows, self._keys) for rows in batches]
            connection.execute("COMMIT")
        return outcomes

    def erase(
        self,
        seller_id: str,
        belonging: Callable[[Iterable[StoredEvent]], Belongings],
        now: datetime,
    ) -> Erasure:
        """Destroy the key of a seller; no event of the seller can be read from then on, by anybody.

        Nothing is appended meanwhile, so that what belongs to the seller is all that ever will.

        Args:
            seller_id: whose key it is.
            belonging: tells what else has to go, from the events of the seller.
            now: when it is done.

        Raises:
            UnknownSeller: if there is no key of this seller.
            LedgerUnavailable: if somebody else writes for too long; nothing was done.
            KeysUnavailable: as `Erasures.destroy` does.
        """
        key, head = self._key_of(seller_id), self.last_sequence()
        # An index by key would cost every append a third; a look at every event costs a rare erasure seconds.
        query = f"SELECT {COLUMNS} FROM events WHERE key_id = ? AND sequence > ? ORDER BY sequence"
        with _translated(self._path):
            rows = self._connection().execute(query, (key.key_id, 0)).fetchall()
        rows = [row for row in rows if row[0] <= head]
        with self._writing() as connection:
            key = self._key_of(seller_id, key)
            rows += connection.execute(query, (key.key_id, head)).fetchall()
            counts = {"events": len(rows)}
            return self._erasures.destroy(key, belonging(readable(rows, self._keys)), counts, now)

    def _check_keys(self, connection: sqlite3.Connection) -> None:
        """Refuse to go on where the key of the newest sealed event is neither there nor destroyed."""
        row = connection.execute(
            "SELECT key_id FROM events WHERE key_id IS NOT NULL ORDER BY sequence DESC LIMIT 1"
        ).fetchone()
        try:
            self._keys.live(row or ())
        except KeysLost as error:
            raise KeysLost(f"{error}; nothing was written to {self._path}") from error

    def _key_of(self, seller_id: str, expected: SellerKey | None = None) -> SellerKey:
        key = self._keys.find(seller_id)
        if key is None or expected not in (None, key):
            raise UnknownSeller(
                f"nothing is kept of a seller {seller_id!r}: there is no key; see `tidegate privacy show`"
            )
        return key

    def is_erased(self, event_id: str) -> bool:
        """Return whether there was an event of this id, of a seller that was erased."""
        query = "SELECT key_id FROM events WHERE event_id = ?"
        with _translated(self._path):
            row = self._connection().execute(query, (event_id,)).fetchone()
        return row is not None and row[0] is not None and not self._keys.live([row[0]])

    def num_about(self, key_id: str) -> int:
        """Return how many events that name no seller are about submissions of an erased one."""
        query = (
            "SELECT COUNT(*) FROM events WHERE key_id IS NULL AND submission_id <> '' AND submission_id IN"
            " (SELECT submission_id FROM events WHERE key_id = ?)"
        )
        with _translated(self._path):
            row = self._connection().execute(query, (key_id,)).fetchone()
        return int(row[0])

    def read(
        self,
        kinds: Collection[EventKind] | None = None,
        after_sequence: int = 0,
        until: datetime | None = None,
        *,
        since: datetime | None = None,
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
        if since is not None:
            where.append("occurred_us > ?")
            values.append(to_microseconds(since))
        order = "occurred_us, sequence" if in_time_order else "sequence"
        behind = "(occurred_us, sequence) > (?, ?)" if in_time_order else "sequence > ?"
        query = (
            f"SELECT {COLUMNS} FROM events WHERE {' AND '.join(where)} AND {behind}"
            f" ORDER BY {order} LIMIT {ROWS}"
        )
        last = (-(2**63), 0) if in_time_order else (after_sequence,)
        while True:
            with _translated(self._path):
                rows = self._connection().execute(query, (*values, *last)).fetchall()
            yield from readable(rows, self._keys)
            if len(rows) < ROWS:
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

    def num_events(self, kinds: Collection[EventKind], *, since: datetime | None = None) -> int:
        """Return how many events of some kinds there are, readable or not; see the protocol."""
        query = f"SELECT COUNT(*) FROM events WHERE kind IN ({','.join('?' * len(kinds))})"
        values: list[str | int] = [*kinds]
        if since is not None:
            query += " AND occurred_us > ?"
            values.append(to_microseconds(since))
        with _translated(self._path):
            row = self._connection().execute(query, values).fetchone()
        return int(row[0])

    def newest_at(self, kinds: Collection[EventKind]) -> datetime | None:
        """Return when the newest readable event of some kinds occurred; see the protocol."""
        query = (
            f"SELECT {COLUMNS} FROM events WHERE kind IN ({','.join('?' * len(kinds))})"
            " AND (occurred_us, sequence) < (?, ?)"
            f" ORDER BY occurred_us DESC, sequence DESC LIMIT {_NEWEST_ROWS}"
        )
        last = (2**63 - 1, 2**63 - 1)
        while True:
            with _translated(self._path):
                rows = self._connection().execute(query, (*kinds, *last)).fetchall()
            for stored in readable(rows, self._keys):
                return stored.event.occurred_at
            if len(rows) < _NEWEST_ROWS:
                return None
            last = rows[-1][5], rows[-1][0]

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
        query = f"SELECT {COLUMNS} FROM events WHERE {condition}"
        with _translated(self._path):
            row = self._connection().execute(query, (value,)).fetchone()
        return next(readable([row], self._keys), None) if row else None

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Keep other writers out; what was not committed within the block is undone."""
        with _translated(self._path):
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _connection(self) -> sqlite3.Connection:
        """Return this thread's connection; a forked child opens its own, as SQLite demands."""
        local = self._local
        if getattr(local, "pid", None) != os.getpid():
            connection = sqlite3.connect(
                self._path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            local.connection, local.pid = connection, os.getpid()
        opened: sqlite3.Connection = local.connection
        return opened

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if not self._is_prepared:
            _refuse_older(connection, self._path)
            connection.executescript(_SCHEMA)
            self._check_keys(connection)
            self._is_prepared = True


def _refuse_older(connection: sqlite3.Connection, path: Path) -> None:
    columns = {row[1] for row in connection.execute("PRAGMA table_info(events)")}
    if columns and "key_id" not in columns:
        raise PermanentError(
            f"{path} is of an older release, which sealed nothing; fill a new home folder (TIDEGATE__HOME) by "
            "`tidegate import` or `tidegate simulate`, and delete this one"
        )


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours; what is locked or full now may work later."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LedgerUnavailable(str(error), file=path) from error
    except sqlite3.DatabaseError as error:
        raise PermanentError(f"{path}: {error}") from error
