"""The stream: events of the ledger become versions of rows, online and in the history, as they arrive.

One writer per feature store. What it holds in memory is a pure function of the ledger and of how far it has come, so it
may stop or fail at any time: it folds again up to where it was, and the versions that it then writes are those that it
would have written.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from typing import Final, Protocol

from prometheus_client import Counter, Gauge

from featurestore.history import ActivityRow
from featurestore.intake import WAIVABLE, Accepted, Intake, Limits
from featurestore.layout import ACTIVITY
from featurestore.letters import DeadLetters, Progress, Reason
from ledger.activity import FOLDED, to_record
from ledger.erasures import Belongings, Erasure
from ledger.events import Event, StoredEvent
from ledger.ledger import Ledger
from moderation.activity import ActivityState, Record
from moderation.activity_rows import RowKind
from moderation.clock import Clock

REFUSED: Final = Counter(
    "tidegate_feature_events_refused_total", "Events that the feature stream refused.", ["reason"]
)
COUNTED: Final = Counter(
    "tidegate_feature_events_total", "Events that the feature stream counted.", ["kind"]
)
LAG: Final = Gauge(
    "tidegate_feature_stream_lag_seconds", "Age of the newest event when it was counted."
)
REFILLED: Final = Counter(
    "tidegate_feature_store_refilled_total",
    "Times that a stream found the online store emptied, or as it was before, and wrote its rows again.",
    ["stream"],
)

_BATCH: Final = 500
_TICK: Final = timedelta(microseconds=1)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
_Key = tuple[RowKind, str]


class _PastGrew(Exception):
    """The ledger got events that were recorded long before others that are written: an import."""


class Sink(Protocol):
    """Where rows are written."""

    def write(self, name: str, versions: Sequence[ActivityRow], *, is_online: bool = True) -> None:
        """Keep versions of rows."""
        ...

    def write_online(self, rows: Sequence[ActivityRow]) -> None:
        """Write rows to the online store alone."""
        ...

    def clear(self) -> None:
        """Forget the history, which is written anew."""
        ...

    def erase(self, seller_id: str, belongings: Belongings) -> dict[str, int]:
        """Take a seller out of everything; return what was removed, by name."""
        ...

    def beat(self, through: datetime, sequence: int) -> None:
        """Say up to when the rows are complete."""
        ...

    def sequence(self) -> int:
        """Return the newest sequence that is in the online rows, 0 where there are none."""
        ...


@dataclass
class Step:
    """What one step did."""

    events: int = 0
    """Counted for the first time."""

    known: int = 0
    """Counted before, and folded again."""

    refused: int = 0
    versions: int = 0
    erased: int = 0
    """Sellers that were taken out."""


@dataclass
class _Fold:
    """What a stream has made of the ledger so far."""

    intake: Intake
    progress: Progress
    state: ActivityState = field(default_factory=ActivityState)
    written: dict[_Key, datetime] = field(default_factory=dict)
    recorded: datetime = _LONG_AGO
    """Newest time at which an event was recorded."""

    told: tuple[datetime, int] | None = None
    """Newest beat of this process."""

    def versions(self, event: Event, record: Record, known_at: datetime) -> Iterator[ActivityRow]:
        """Count one record; yield the versions of the rows that it changed.

        A store keeps the newest only, so a version is always later than the one before.
        """
        self.state.observe(record)
        # A clock that is a little ahead must not hold back what comes after it.
        at = min(event.occurred_at, known_at)
        for row in self.state.drain():
            value = self.state.value_of(*row)
            if value is None:
                continue
            before = self.written.get(row)
            later = max(at, before + _TICK) if before else at
            self.written[row] = later
            yield ActivityRow(*row, value, later, max(known_at, later))

    def rows(self) -> Iterator[ActivityRow]:
        """Yield every row as it is."""
        for kind, key in self.written:
            yield from self.rows_of(kind, (key,))

    def rows_of(self, kind: RowKind, keys: Iterable[str]) -> Iterator[ActivityRow]:
        """Yield the rows of some keys as they are; there is none where nothing is known."""
        for key in keys:
            value, at = self.state.value_of(kind, key), self.written.get((kind, key))
            if value is not None and at is not None:
                yield ActivityRow(kind, key, value, at, at)


class FeatureStream:
    """Folds a ledger into a feature store."""

    def __init__(
        self,
        ledger: Ledger,
        sink: Sink,
        letters: DeadLetters,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._ledger, self._sink, self._letters, self._clock = ledger, sink, letters, clock
        self._limits = limits or Limits()
        self._fold: _Fold | None = None

    def step(self) -> Step:
        """Write what the ledger got since the last step, and say that the rows are complete up to now.

        The first step writes the whole past, or folds again what was written. A step that failed leaves nothing
        half done: the next one begins as the first did.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be written.
            LedgerUnavailable: if the ledger cannot be read.
            LettersUnavailable: if it cannot be kept how far it came.
        """
        done = Step()
        fold, self._fold = self._fold, None
        now = self._clock.now()
        erasures = self._erase()
        if fold is None or erasures:
            fold = self._started(done, now)
        self._publish_without(fold, erasures, now)
        done.erased = len(erasures)
        head = self._ledger.last_sequence(FOLDED)
        try:
            self._take_all(fold, now, done)
        except _PastGrew:
            fold = self._begun_again(done, now)
            head = fold.progress.sequence
        if head > fold.progress.sequence:  # the newest events are of erased sellers
            fold.progress = Progress(fold.progress.past, head)
            self._letters.save_progress(fold.progress)
        if fold.told and self._sink.sequence() != fold.told[1]:
            fold = self._started(done, now)
        self._beat(fold, now)
        self._fold = fold
        return done

    def replay(self, waived: Iterable[Reason] = ()) -> Step:
        """Look at every refused event again and count what is right now.

        Args:
            waived: reasons that refuse nothing any more, of `WAIVABLE`.

        Raises:
            ValueError: if a reason cannot be waived.
        """
        reasons = frozenset(waived)
        if not reasons <= set(WAIVABLE):
            raise ValueError(f"only {', '.join(WAIVABLE)} can be waived")
        done = self.step()
        fold, self._fold = self._fold, None
        assert fold
        now = self._clock.now()
        waiting = self._events(letter.event_id for letter in self._letters.waiting())
        accepted, _ = fold.intake.sort(waiting, now, waived=reasons)
        if accepted:
            versions = [
                row for stored, one in accepted for row in fold.versions(stored.event, one, now)
            ]
            first, last = accepted[0][0].sequence, accepted[-1][0].sequence
            self._sink.write(f"replay-{first:012d}-{last:012d}", versions)
            self._letters.mark_replayed([stored.sequence for stored, _ in accepted], now)
            done.events += len(accepted)
            done.versions += len(versions)
        self._fold = fold
        return done

    def _erase(self) -> list[Erasure]:
        """Take erased sellers out of the store and return whose turn it was; what was folded with them is void."""
        erasures = self._ledger.erasures.in_features()
        for one in erasures:
            counts = self._sink.erase(one.seller_id or "", one.belongings)
            counts["refused_events"] = self._letters.forget(one.belongings.sequences)
            self._ledger.erasures.note(one.key_id, counts)
        return erasures

    def _publish_without(self, fold: _Fold, erasures: Iterable[Erasure], now: datetime) -> None:
        """Write again what others share with erased sellers, and what a seller of that id did since."""
        for one in erasures:
            if again := list(fold.rows_of(RowKind.SELLER, [one.seller_id or ""])):
                self._sink.write(f"since-{one.key_id}", again)
            places = fold.rows_of(RowKind.DEVICE, one.belongings.devices)
            others = fold.rows_of(RowKind.ADDRESS, one.belongings.addresses)
            self._sink.write_online([*places, *others])
            self._ledger.erasures.note_features(one.key_id, {}, now)

    def _take_all(self, fold: _Fold, now: datetime, done: Step) -> None:
        after = fold.progress.sequence
        for batch in _batches(self._ledger.read(FOLDED, after_sequence=after)):
            oldest = min(stored.event.recorded_at for stored in batch)
            if oldest < fold.recorded - self._limits.max_behind:
                raise _PastGrew
            fold.recorded = max(fold.recorded, *(stored.event.recorded_at for stored in batch))
            self._take(fold, batch, now, done)

    def _begun_again(self, done: Step, now: datetime) -> _Fold:
        """Write the whole past anew, in the order of time: when it was imported makes no difference."""
        self._letters.forget_progress()
        return self._backfilled(done, now)

    def _take(self, fold: _Fold, batch: Sequence[StoredEvent], now: datetime, done: Step) -> None:
        accepted = self._sorted(fold, batch, now, done)
        versions = [
            row
            for stored, record in accepted
            for row in fold.versions(stored.event, record, stored.event.recorded_at)
        ]
        if versions:
            self._sink.write(f"{batch[0].sequence:012d}", versions)
        fold.progress = Progress(fold.progress.past, batch[-1].sequence)
        self._letters.save_progress(fold.progress)
        if accepted:
            newest = max(stored.event.occurred_at for stored, _ in accepted)
            LAG.set((now - newest).total_seconds())
        done.versions += len(versions)

    def _sorted(
        self,
        fold: _Fold,
        batch: Sequence[StoredEvent],
        now: datetime,
        done: Step,
        waived: frozenset[Reason] = frozenset(),
    ) -> list[Accepted]:
        """Return what counts; what does not is kept with its reason, and a reason that was kept holds."""
        refused_before = {letter.sequence for letter in self._letters.waiting()}
        fresh = [stored for stored in batch if stored.sequence not in refused_before]
        accepted, refused = fold.intake.sort(fresh, now, waived=waived)
        self._letters.add(refused, now)
        for _, reason, _ in refused:
            REFUSED.labels(reason).inc()
        for stored, _ in accepted:
            COUNTED.labels(stored.event.kind).inc()
        done.events += len(accepted)
        done.refused += len(refused)
        return accepted

    def _started(self, done: Step, now: datetime) -> _Fold:
        """Return the fold of all that is written; where nothing is, write the past."""
        progress = self._letters.progress()
        if progress is None:
            return self._backfilled(done, now)
        fold = _Fold(Intake(self._limits), progress)
        refused = {letter.sequence for letter in self._letters.waiting()}
        replayed = self._letters.replayed()
        refused |= {letter.sequence for letter in replayed}
        for stored in self._written_before(progress):
            if stored.sequence not in refused:
                self._fold_again(fold, stored.event, stored.sequence <= progress.past, done)
        for stored in self._events(letter.event_id for letter in replayed):
            self._fold_again(fold, stored.event, False, done)
        if self._sink.sequence() != progress.sequence:  # it was lost, or is one of before
            REFILLED.labels(ACTIVITY).inc()
            self._publish(fold)
        return fold

    def _fold_again(self, fold: _Fold, event: Event, is_past: bool, done: Step) -> None:
        record = to_record(event)
        fold.recorded = max(fold.recorded, event.recorded_at)
        known_at = self._known_at(event) if is_past else event.recorded_at
        for _ in fold.versions(event, record, known_at):
            pass
        fold.intake.learn(record)
        done.known += 1

    def _written_before(self, progress: Progress) -> Iterator[StoredEvent]:
        """Yield the events that were looked at, in the order in which they were."""
        past = self._ledger.read(FOLDED, in_time_order=True)
        live = self._ledger.read(FOLDED, after_sequence=progress.past)
        return chain(
            (stored for stored in past if stored.sequence <= progress.past),
            (stored for stored in live if stored.sequence <= progress.sequence),
        )

    def _backfilled(self, done: Step, now: datetime) -> _Fold:
        """Write the past in the order of time: each row's versions as they would have come to be."""
        self._sink.clear()
        head = self._ledger.last_sequence()
        fold = _Fold(Intake(self._limits), Progress(head, head))
        past = (s for s in self._ledger.read(FOLDED, in_time_order=True) if s.sequence <= head)
        for number, batch in enumerate(_batches(past)):
            fold.recorded = max(fold.recorded, *(stored.event.recorded_at for stored in batch))
            accepted = self._sorted(fold, batch, now, done, frozenset({Reason.LATE}))
            versions = [
                row
                for stored, record in accepted
                for row in fold.versions(stored.event, record, self._known_at(stored.event))
            ]
            self._sink.write(f"past-{number:06d}", versions, is_online=False)
            done.versions += len(versions)
        if (
            self._sink.sequence()
        ):  # online the newest wins, and these rows are newer than what stands there
            fold.written = {row: max(at, now) for row, at in fold.written.items()}
        self._publish(fold)
        self._letters.save_progress(fold.progress)
        return fold

    def _publish(self, fold: _Fold) -> None:
        rows = fold.rows()
        while some := list(islice(rows, _BATCH)):
            self._sink.write_online(some)

    def _beat(self, fold: _Fold, now: datetime) -> None:
        self._sink.beat(now, fold.progress.sequence)
        if not fold.told or now > fold.told[0]:  # the store keeps the later one
            fold.told = now, fold.progress.sequence

    def _known_at(self, event: Event) -> datetime:
        """Return when an event of the past was known: when it was recorded, or at its own time, if it was imported."""
        is_imported = event.recorded_at - event.occurred_at > self._limits.max_behind
        return event.occurred_at if is_imported else max(event.recorded_at, event.occurred_at)

    def _events(self, event_ids: Iterable[str]) -> list[StoredEvent]:
        found = (self._ledger.get_event(event_id) for event_id in event_ids)
        return [stored for stored in found if stored]


def _batches(events: Iterable[StoredEvent]) -> Iterator[list[StoredEvent]]:
    events = iter(events)
    while batch := list(islice(events, _BATCH)):
        yield batch
