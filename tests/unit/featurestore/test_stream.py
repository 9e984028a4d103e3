"""What is streamed online equals what history says of the same instant; what is refused is kept and can come back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import numpy as np
import pytest
from feast import FeatureStore

from featurestore.history import ActivityRow, behaviour_at
from featurestore.intake import Limits
from featurestore.letters import DeadLetters, Reason
from featurestore.online import OnlineReader
from featurestore.repository import Place
from featurestore.sinks import FeastSink, FeaturesUnavailable
from featurestore.stream import FeatureStream
from ledger.events import Event, EventKind, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission
from tests.feature_events import START, drawn_events, drawn_upload, upload

DAY = timedelta(days=1)


def _as_they_arrive(rng: Random, events: list[Event]) -> list[Event]:
    """Return events in the order of arrival: some late by up to twelve hours, some twice."""
    arriving = []
    for event in events:
        lag = timedelta(seconds=rng.choice((0.001, 0.5, 30, 3_600, 43_000)) * rng.random())
        arriving.append(replace(event, recorded_at=event.occurred_at + lag))
    arriving += [
        replace(event, recorded_at=event.recorded_at + timedelta(hours=1))
        for event in rng.sample(arriving, len(arriving) // 10)
    ]
    return sorted(arriving, key=lambda event: event.recorded_at)


def test_online_equals_offline_at_every_instant(
    store: FeatureStore,
    stream: FeatureStream,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    """Between events too, and although events come late, twice and out of order."""
    rng = Random(11)
    stream.step()
    asked: list[Submission] = []
    online = []
    arriving = _as_they_arrive(rng, drawn_events(rng, 160))
    for number, event in enumerate(arriving):
        ledger.append([event])
        clock.move_to(event.recorded_at)
        stream.step()
        # Asked after an event, and long after it, before the next one arrives.
        wait = rng.choice((timedelta(microseconds=2), timedelta(minutes=rng.uniform(0, 200))))
        last = clock.now() + wait
        if number + 1 < len(arriving) and arriving[number + 1].recorded_at <= last:
            continue
        clock.move_to(last)
        stream.step()
        asked.append(drawn_upload(rng, f"q{number}", last))
        online.append(reader.read(asked[-1]).behaviour_F)
    assert len(asked) > len(arriving) // 2
    np.testing.assert_array_equal(np.stack(online), behaviour_at(store, asked))


def test_windows_empty_themselves_between_events(
    stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock, reader: OnlineReader
) -> None:
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    stream.step()
    column = FEATURE_NAMES.index("submissions_1h")
    counts = []
    for minutes in (1, 59, 61):
        clock.move_to(START + timedelta(minutes=minutes))
        stream.step()
        counts.append(float(reader.read(upload("q", clock.now())).behaviour_F[column]))
    assert counts == [1, 1, 0]


def test_a_stopped_stream_goes_on_where_it_was(
    store: FeatureStore,
    place: Place,
    stream: FeatureStream,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    letters = stream.letters
    events = drawn_events(Random(5), 200)
    ledger.append(events[:120])
    clock.move_to(events[-1].occurred_at + DAY)
    stream.step()
    again = FeatureStream(ledger, FeastSink(store, place), letters, clock)
    assert again.step().versions == 0
    ledger.append(events[120:])
    assert again.step().events == len(events) - 120
    asked = [drawn_upload(Random(n), f"q{n}", clock.now()) for n in range(20)]
    fresh = FeatureStream(ledger, _Nowhere(), letters, clock)
    fresh.step()
    for one in asked:
        expected = fresh._state.features(one)[0]
        np.testing.assert_array_equal(reader.read(one).behaviour_F, expected)


def test_rows_that_could_not_be_written_are_written_by_the_next_step(
    store: FeatureStore,
    place: Place,
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    sink = _Failing(store, place)
    stream = FeatureStream(ledger, sink, letters, clock)
    stream.step()
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    clock.move_to(clock.now() + timedelta(minutes=1))
    sink.fails = True
    with pytest.raises(FeaturesUnavailable):
        stream.step()
    sink.fails = False
    stream.step()
    column = FEATURE_NAMES.index("submissions_24h")
    assert reader.read(upload("q", clock.now())).behaviour_F[column] == 1


def test_an_event_of_another_schema_is_kept_aside_and_counted_when_it_can_be_read(
    stream: FeatureStream, ledger: SqliteLedger, letters: DeadLetters, clock: SimulatedClock
) -> None:
    stream.step()
    event = from_submission(upload("u1", START), recorded_at=START)
    ledger.append([replace(event, payload={**event.payload, "listing": {"price": "cheap"}})])
    assert stream.step().refused == 1
    [letter] = letters.waiting()
    assert (letter.reason, letter.event_id) == (Reason.SCHEMA, "submission:u1")
    assert "price" in letter.detail or "listing" in letter.detail
    assert stream.replay(waived=Reason).events == 0, "what cannot be read never counts"
    assert letters.counts() == {Reason.SCHEMA: 1}


def test_a_time_that_has_not_come_is_refused_until_it_comes(
    stream: FeatureStream,
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    stream.step()
    ledger.append([from_submission(upload("u1", START + 2 * DAY), recorded_at=START)])
    assert stream.step().refused == 1
    assert letters.counts() == {Reason.FUTURE: 1}
    assert stream.replay().events == 0
    clock.move_to(clock.now() + 3 * DAY)
    assert stream.replay().events == 1
    assert letters.counts() == {}
    column = FEATURE_NAMES.index("submissions_30d")
    assert reader.read(upload("q", clock.now())).behaviour_F[column] == 1


def test_a_clock_far_behind_is_refused_unless_it_is_waived(
    stream: FeatureStream, ledger: SqliteLedger, letters: DeadLetters, clock: SimulatedClock
) -> None:
    stream.step()
    clock.move_to(clock.now() + 30 * DAY)
    ledger.append([from_submission(upload("u1", START), recorded_at=clock.now())])
    assert stream.step().refused == 1
    assert letters.counts() == {Reason.LATE: 1}
    assert stream.replay().events == 0
    assert stream.replay(waived=[Reason.LATE]).events == 1


def test_a_flood_of_nulls_is_refused_and_ordinary_uploads_are_not(
    stream: FeatureStream, ledger: SqliteLedger, letters: DeadLetters, clock: SimulatedClock
) -> None:
    stream.limits = Limits()
    stream.step()

    def batch(begin: int, num: int, num_without: int) -> list[Event]:
        found = []
        for n in range(begin, begin + num):
            at = clock.now() - timedelta(seconds=1, microseconds=-(n - begin))
            device = None if n - begin < num_without else "d1"
            found.append(
                from_submission(upload(f"u{n}", at, device_fingerprint=device), recorded_at=at)
            )
        return found

    clock.move_to(clock.now() + DAY)
    ledger.append(batch(0, 500, 25))
    assert stream.step().refused == 0
    ledger.append(batch(500, 200, 30))
    assert stream.step().refused == 0
    ledger.append(batch(700, 200, 120))
    step = stream.step()
    assert (step.events, step.refused) == (80, 120)
    assert "device_fingerprint is missing in 60%" in letters.waiting()[0].detail
    ledger.append(batch(900, 200, 10))
    assert stream.step().refused == 0
    assert stream.replay(waived=[Reason.NULL_FLOOD]).events == 120


def test_the_past_of_an_import_is_known_at_its_own_time(
    store: FeatureStore, stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    imported = from_submission(upload("u1", START), recorded_at=START + 300 * DAY)
    ledger.append([imported])
    clock.move_to(clock.now() + 301 * DAY)
    assert stream.step().refused == 0
    column = FEATURE_NAMES.index("submissions_30d")
    found = behaviour_at(store, [upload("q", START + DAY)])
    assert found[0, column] == 1


def test_events_of_no_seller_change_no_row(stream: FeatureStream, ledger: SqliteLedger) -> None:
    stream.step()
    event = from_submission(upload("u1", START, seller_id=None), recorded_at=START)
    assert event.kind is EventKind.SUBMISSION
    ledger.append([event])
    assert stream.step().versions == 0


class _Nowhere:
    """A sink that keeps nothing: the stream behind it is a plain fold."""

    def write(self, name: str, versions: Sequence[ActivityRow], *, is_online: bool = True) -> None:
        pass

    def write_online(self, rows: Sequence[ActivityRow]) -> None:
        pass

    def beat(self, through: datetime, sequence: int) -> None:
        pass

    def progress(self) -> int:
        return 0

    def newest(self, kind: object, keys: object) -> dict[str, datetime]:
        return {}


class _Failing(FeastSink):
    """A sink whose online store can be made to fail after the history was written."""

    fails = False

    def write_online(self, rows: object) -> None:
        if self.fails:
            raise FeaturesUnavailable("the store is away")
        super().write_online(rows)  # type: ignore[arg-type]
