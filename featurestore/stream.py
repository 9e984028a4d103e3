"""The stream: events of the ledger become versions of rows, online and in the history, as they arrive.

One writer per feature store. What it holds in memory is what it folded out of the ledger, so it may stop at any time:
it folds again up to where it was, and goes on from there.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, Protocol

from prometheus_client import Counter, Gauge
from pydantic import BaseModel

from featurestore.history import ActivityRow
from featurestore.intake import KINDS, Accepted, Intake, Limits, Refused
from featurestore.letters import DeadLetters, Reason
from ledger.events import StoredEvent
from ledger.ledger import Ledger
from moderation.activity import ActivityState
from moderation.activity_rows import RowKind
from moderation.clock import Clock
from moderation.listing import Appeal, GroundTruth, Report, Submission

REFUSED: Final = Counter(
    "tidegate_feature_events_refused_total", "Events that the feature stream refused.", ["reason"]
)
COUNTED: Final = Counter(
    "tidegate_feature_events_total", "Events that the feature stream counted.", ["kind"]
)
LAG: Final = Gauge(
    "tidegate_feature_stream_lag_seconds", "Age of the newest event when it was counted."
)

_BATCH: Final = 500
_TICK: Final = timedelta(microseconds=1)
_Key = tuple[RowKind, str]


class Sink(Protocol):
    """Where rows are written."""

    def write(self, name: str, versions: Sequence[ActivityRow], *, is_online: bool = True) -> None:
        """Keep versions of rows."""
        ...

    def write_online(self, rows: Sequence[ActivityRow]) -> None:
        """Write rows to the online store alone."""
        ...

    def beat(self, through: datetime, sequence: int) -> None:
        """Say up to when the rows are complete."""
        ...

    def progress(self) -> int:
        """Return the newest sequence that is in the online rows."""
        ...

    def newest(self, kind: RowKind, keys: Sequence[str]) -> dict[str, datetime]:
        """Return the event times of the rows that are online."""
        ...


@dataclass(frozen=True, slots=True)
class _Change:
    """A row as one event left it."""

    row: _Key
    value: bytes | float
    occurred_at: datetime
    known_at: datetime


@dataclass(frozen=True)
class _Unsent:
    """Versions that were folded and are not written yet."""

    name: str
    versions: list[ActivityRow]
    sequence: int


@dataclass
class Step:
    """What one step did."""

    events: int = 0
    """Counted for the first time."""

    known: int = 0
    """Counted before, and folded again."""

    refused: int = 0
    versions: int = 0


@dataclass
class FeatureStream:
    """Folds a ledger into a feature store."""

    ledger: Ledger
    sink: Sink
    letters: DeadLetters
    clock: Clock
    limits: Limits = field(default_factory=Limits)
    _state: ActivityState = field(default_factory=ActivityState)
    _written: dict[_Key, datetime] = field(default_factory=dict)
    _sequence: int = -1
    _unsent: _Unsent | None = None

    def __post_init__(self) -> None:
        self._intake = Intake(self.limits)

    def start(self) -> Step:
        """Fold what is written already, or write the whole past where nothing is; the first `step` does it."""
        self._sequence = self.sink.progress()
        return self._resume() if self._sequence else self._backfill()

    def step(self) -> Step:
        """Write what the ledger got since the last step, and say that the rows are complete up to now.

        Raises:
            FeaturesUnavailable: if the online store cannot be written; the next step writes the same rows first.
        """
        done = self.start() if self._sequence < 0 else Step()
        now = self.clock.now()
        self._send()
        for batch in _batches(self.ledger.read(KINDS, after_sequence=self._sequence)):
            self._take(batch, now, done)
        self.sink.beat(now, self._sequence)
        return done

    def replay(self, waived: Iterable[Reason] = ()) -> Step:
        """Look at every refused event again and count what is right now; `waived` reasons refuse nothing any more."""
        done = self.step()
        now = self.clock.now()
        found = [self.ledger.get_event(letter.event_id) for letter in self.letters.waiting()]
        accepted, _ = self._intake.sort(
            [stored for stored in found if stored], now, waived=frozenset(waived)
        )
        if not accepted:
            return done
        changes = [
            change
            for stored, record in accepted
            for change in self._observe(record, stored.event.occurred_at, now)
        ]
        self._look_up(changes)
        versions = list(self._versions(changes))
        name = f"replay-{accepted[0][0].sequence:012d}-{now:%Y%m%dT%H%M%S%f}"
        self._unsent = _Unsent(name, versions, self._sequence)
        self._send()
        self.letters.mark_replayed([stored.sequence for stored, _ in accepted], now)
        done.events += len(accepted)
        done.versions += len(versions)
        return done

    def _take(self, batch: Sequence[StoredEvent], now: datetime, done: Step) -> None:
        accepted, refused = self._sorted(batch, now)
        changes = [
            change
            for stored, record in accepted
            for change in self._observe(record, stored.event.occurred_at, stored.event.recorded_at)
        ]
        self._look_up(changes)
        versions = list(self._versions(changes))
        self._unsent = _Unsent(f"{batch[0].sequence:012d}", versions, batch[-1].sequence)
        self._send()
        if accepted:
            newest = max(stored.event.occurred_at for stored, _ in accepted)
            LAG.set((now - newest).total_seconds())
        done.events += len(accepted)
        done.refused += len(refused)
        done.versions += len(versions)

    def _send(self) -> None:
        """Write what was folded; it stays unsent until it is written."""
        if self._unsent:
            self.sink.write(self._unsent.name, self._unsent.versions)
            self._sequence = max(self._sequence, self._unsent.sequence)
            self._unsent = None

    def _sorted(
        self, batch: Sequence[StoredEvent], now: datetime, waived: frozenset[Reason] = frozenset()
    ) -> tuple[list[Accepted], list[Refused]]:
        """Return what counts; what does not is kept with its reason."""
        accepted, refused = self._intake.sort(batch, now, waived=waived)
        self.letters.add(refused, now)
        for _, reason, _ in refused:
            REFUSED.labels(reason).inc()
        for stored, _ in accepted:
            COUNTED.labels(stored.event.kind).inc()
        return accepted, refused

    def _observe(
        self, record: BaseModel, occurred_at: datetime, known_at: datetime
    ) -> Iterator[_Change]:
        """Count one record; yield the rows that it changed, as they are then."""
        observe(self._state, record)
        for kind, key in self._state.drain():
            value = self._state.value_of(kind, key)
            if value is not None:
                yield _Change((kind, key), value, occurred_at, known_at)

    def _versions(self, changes: Iterable[_Change]) -> Iterator[ActivityRow]:
        for change in changes:
            # A store keeps the newest only, so a version is always later than the one before.
            before = self._written.get(change.row)
            at = max(change.occurred_at, before + _TICK) if before else change.occurred_at
            self._written[change.row] = at
            yield ActivityRow(*change.row, change.value, at, max(change.known_at, at))

    def _look_up(self, changes: Iterable[_Change]) -> None:
        """Learn from the online store when rows were last written that this process has not written yet."""
        unknown: dict[RowKind, set[str]] = {}
        for change in changes:
            if change.row not in self._written:
                unknown.setdefault(change.row[0], set()).add(change.row[1])
        for kind, names in unknown.items():
            for name, at in self.sink.newest(kind, sorted(names)).items():
                self._written[kind, name] = at

    def _resume(self) -> Step:
        """Fold what is written already, without writing it again."""
        done, refused = Step(), {letter.sequence for letter in self.letters.waiting()}
        for batch in _batches(self.ledger.read(KINDS, in_time_order=True)):
            known = [s for s in batch if s.sequence <= self._sequence and s.sequence not in refused]
            # It counted when it came, whatever the clock says today.
            accepted, _ = self._intake.sort(known, self.clock.now(), waived=frozenset(Reason))
            for _, record in accepted:
                observe(self._state, record)
            done.known += len(accepted)
        self._state.drain()
        return done

    def _backfill(self) -> Step:
        """Write the past in the order of time: each row's versions as they would have come to be."""
        done, head, now = Step(), self.ledger.last_sequence(), self.clock.now()
        last: dict[_Key, ActivityRow] = {}
        for number, batch in enumerate(_batches(self.ledger.read(KINDS, in_time_order=True))):
            old = [stored for stored in batch if stored.sequence <= head]
            # Whatever was recorded late was known at its own time: that is what an import says.
            accepted, refused = self._sorted(old, now, frozenset({Reason.LATE}))
            changes = (
                change
                for stored, record in accepted
                for change in self._observe(
                    record, stored.event.occurred_at, stored.event.occurred_at
                )
            )
            versions = list(self._versions(changes))
            self.sink.write(f"past-{number:06d}", versions, is_online=False)
            last.update({(row.kind, row.key): row for row in versions})
            done.events += len(accepted)
            done.refused += len(refused)
            done.versions += len(versions)
        rows = list(last.values())
        for begin in range(0, len(rows), _BATCH):
            self.sink.write_online(rows[begin : begin + _BATCH])
        self._sequence = head
        return done


def observe(state: ActivityState, record: BaseModel) -> None:
    """Fold one record into `state`."""
    match record:
        case Submission():
            state.observe_submission(record)
        case GroundTruth():
            state.observe_truth(record)
        case Report():
            state.observe_report(record)
        case Appeal():
            state.observe_appeal(record)


def _batches(events: Iterable[StoredEvent]) -> Iterator[list[StoredEvent]]:
    events = iter(events)
    while batch := list(islice(events, _BATCH)):
        yield batch
