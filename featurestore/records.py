"""What was decided and what was established, from the ledger into the views `decisions` and `ground_truth`.

A second reader of the ledger, beside the one of activity and with progress of its own. It keeps nothing in memory: a
row is a function of its event alone, the history is one file per batch, named by the batch's first sequence, and online
the newest event time wins. So whatever stops it, the next step writes the same again and goes on.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, Final

from prometheus_client import Counter, Gauge

from featurestore.definitions import DECISIONS, GROUND_TRUTH
from featurestore.intake import Limits, what_is_wrong
from featurestore.layout import CREATED, EVENT_TIME, Place
from featurestore.letters import RECORDS_PREFIX, DeadLetters, Progress, Reason
from featurestore.repository import open_store
from featurestore.stream import REFILLED
from featurestore.view_rows import Row, ViewRows
from ledger.events import Event, EventKind, StoredEvent, to_decision, to_ground_truth
from ledger.ledger import Ledger
from moderation.activity_rows import to_us
from moderation.clock import Clock
from moderation.decision import Attempt
from moderation.errors import PermanentError

RECORDS: Final = "records"
"""This stream, as a key of `stream_state`."""

WRITTEN: Final = Counter(
    "tidegate_feature_records_total", "Events that became rows of a view of records.", ["kind"]
)
REFUSED: Final = Counter(
    "tidegate_feature_records_refused_total", "Events that no row was made of.", ["reason"]
)
LAG: Final = Gauge(
    "tidegate_feature_records_lag_seconds", "Age of the newest event when it became a row."
)

_BATCH: Final = 500
_VIEWS: Final = {EventKind.DECISION: DECISIONS, EventKind.GROUND_TRUTH: GROUND_TRUTH}


@dataclass
class RecordStep:
    """What one step did."""

    decisions: int = 0
    truths: int = 0
    refused: int = 0


def letters_of_records(place: Place) -> DeadLetters:
    """Return what the stream of records keeps of itself, beside what the stream of activity keeps."""
    return DeadLetters(place.stream_file, prefix=RECORDS_PREFIX)


def open_records(place: Place, ledger: Ledger, clock: Clock) -> "RecordStream":
    """Return the stream of records into a feature store; call it while being its one writer.

    Raises:
        FeaturesNotReady: if nothing was set up.
    """
    rows = ViewRows(open_store(place), place)
    return RecordStream(ledger, rows, letters_of_records(place), clock)


def decision_row(event: Event) -> Row:
    """Return the row of a decision, valid from `decided_at` and known from `recorded_at`.

    Raises:
        PermanentError: if the event holds no decision.
    """
    decision = to_decision(event)
    answer = next(filter(_is_answer, decision.attempts), None)
    # A duplicate was not waited for: it got an earlier answer again.
    is_fresh = decision.decided_by != "duplicate"
    top = max(answer.scores, key=lambda one: one.probability, default=None) if answer else None
    return {
        "listing_id": decision.submission_id,
        "seller_id": event.seller_id or "",
        "tier": decision.tier,
        "release": decision.versions.bundle or "",
        "arm": decision.arm,
        "policy_version": decision.versions.policy,
        "latency_ms": answer.latency_ms if answer and is_fresh else None,
        "degraded": len(decision.degraded),
        "top_policy": top.policy if top else "",
        "top_probability": top.probability if top else None,
        EVENT_TIME: decision.decided_at,
        CREATED: event.recorded_at,
    }


def truth_row(event: Event) -> Row:
    """Return the row of an established truth, valid from `known_at` and known from `recorded_at`.

    Raises:
        PermanentError: if the event holds no truth.
    """
    truth = to_ground_truth(event)
    return {
        "listing_id": truth.submission_id,
        "policy_id": truth.policy,
        "violates": int(truth.violates),
        "source": truth.source.value,
        "adjudicated": int(truth.adjudicated),
        "propensity": truth.propensity,
        "reviewed_us": to_us(truth.reviewed_at),
        EVENT_TIME: truth.known_at,
        CREATED: event.recorded_at,
    }


_ROW_OF: Final[dict[EventKind, Callable[[Event], Row]]] = {
    EventKind.DECISION: decision_row,
    EventKind.GROUND_TRUTH: truth_row,
}


class RecordStream:
    """Follows the ledger into the views of records."""

    def __init__(
        self,
        ledger: Ledger,
        rows: ViewRows,
        letters: DeadLetters,
        clock: Clock,
        limits: Limits | None = None,
    ) -> None:
        self._ledger, self._rows, self._letters, self._clock = ledger, rows, letters, clock
        self._limits = limits or Limits()
        self._expected: int | None = None  # what the online store says of this stream
        self._told_at: datetime | None = None

    def step(self) -> RecordStep:
        """Write what the ledger got since the last step; where the online store lost some, write all of it there again.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be reached; the next step goes on from here.
            LedgerUnavailable: if the ledger cannot be read.
            LettersUnavailable: if it cannot be kept how far it came.
        """
        done, now = RecordStep(), self._clock.now()
        progress = self._letters.progress() or Progress(0, 0)
        if self._expected is None:
            stored = self._rows.sequence(RECORDS)
            if stored != progress.sequence:
                self._fill_again(progress, now)
            self._expected = stored
        for batch in _batches(self._ledger.read(tuple(_VIEWS), progress.sequence)):
            self._write(f"{batch[0].sequence:012d}", self._sorted(batch, now, done), done)
            progress = Progress(0, batch[-1].sequence)
            self._letters.save_progress(progress)
            LAG.set((now - max(one.event.occurred_at for one in batch)).total_seconds())
        if self._rows.sequence(RECORDS) != self._expected:
            self._fill_again(progress, now)
        self._rows.beat(RECORDS, now, progress.sequence)
        if not self._told_at or now > self._told_at:  # the store keeps the later one
            self._expected, self._told_at = progress.sequence, now
        return done

    def replay(self) -> RecordStep:
        """Look at every refused event again and write what is right now."""
        done, now = RecordStep(), self._clock.now()
        found = (self._ledger.get_event(one.event_id) for one in self._letters.waiting())
        waiting = [stored for stored in found if stored]
        accepted, _ = self._looked_at(waiting, now)
        if accepted:
            first, last = accepted[0][0].sequence, accepted[-1][0].sequence
            self._write(f"replay-{first:012d}-{last:012d}", accepted, done)
            self._letters.mark_replayed([stored.sequence for stored, _ in accepted], now)
        return done

    def _fill_again(self, progress: Progress, now: datetime) -> None:
        REFILLED.labels(RECORDS).inc()
        past = self._ledger.read(tuple(_VIEWS))
        for batch in _batches(one for one in past if one.sequence <= progress.sequence):
            for view, rows in _by_view(self._looked_at(self._fresh(batch), now)[0]).items():
                self._rows.push(view, rows)

    def _write(self, name: str, accepted: Sequence["_Accepted"], done: RecordStep) -> None:
        for view, rows in _by_view(accepted).items():
            self._rows.append(view, name, rows)
            self._rows.push(view, rows)
        for stored, _ in accepted:
            WRITTEN.labels(stored.event.kind).inc()
            done.decisions += stored.event.kind is EventKind.DECISION
            done.truths += stored.event.kind is EventKind.GROUND_TRUTH

    def _sorted(
        self, batch: Sequence[StoredEvent], now: datetime, done: RecordStep
    ) -> list["_Accepted"]:
        """Return what becomes a row; what does not is kept with its reason, and a reason that was kept holds."""
        accepted, refused = self._looked_at(self._fresh(batch), now)
        self._letters.add(refused, now)
        for _, reason, _ in refused:
            REFUSED.labels(reason).inc()
        done.refused += len(refused)
        return accepted

    def _fresh(self, batch: Sequence[StoredEvent]) -> list[StoredEvent]:
        waiting = {letter.sequence for letter in self._letters.waiting()}
        return [stored for stored in batch if stored.sequence not in waiting]

    def _looked_at(
        self, batch: Iterable[StoredEvent], now: datetime
    ) -> tuple[list["_Accepted"], list[tuple[StoredEvent, Reason, str]]]:
        accepted: list[_Accepted] = []
        refused = []
        for stored in batch:
            event = stored.event
            if event.occurred_at > now + self._limits.max_ahead:
                why = f"it happens in {event.occurred_at - now}; the clock behind it is ahead"
                refused.append((stored, Reason.FUTURE, why))
                continue
            try:
                accepted.append((stored, _ROW_OF[event.kind](event)))
            except PermanentError as error:
                refused.append((stored, Reason.SCHEMA, what_is_wrong(error)))
        return accepted, refused


_Accepted = tuple[StoredEvent, Row]


def _by_view(accepted: Iterable[_Accepted]) -> dict[str, list[Row]]:
    """Return the rows of each view, those of one key and instant as one: the last that was recorded."""
    found: dict[str, dict[tuple[Any, ...], Row]] = {}
    for stored, row in accepted:
        key = (row["listing_id"], row.get("policy_id"), row[EVENT_TIME])
        found.setdefault(_VIEWS[stored.event.kind], {})[key] = row
    return {view: list(rows.values()) for view, rows in found.items()}


def _is_answer(attempt: Attempt) -> bool:
    return attempt.role != "shadow" and attempt.status == "ok"


def _batches(events: Iterable[StoredEvent]) -> Iterator[list[StoredEvent]]:
    events = iter(events)
    while batch := list(islice(events, _BATCH)):
        yield batch
