"""What is streamed online equals what history says of the same instant; what is refused is kept and can come back."""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from random import Random
from typing import Any

import numpy as np
import pytest
from feast import FeatureStore

from featurestore.history import ActivityRow, behaviour_at
from featurestore.layout import Place
from featurestore.letters import DeadLetters, Reason
from featurestore.online import OnlineReader, open_rows
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from ledger.activity import FOLDED, to_record
from ledger.events import Event, EventKind, StoredEvent, from_submission
from ledger.ledger import LedgerUnavailable, SqliteLedger
from moderation.activity import ActivityState
from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable
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
    place: Place,
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
    np.testing.assert_array_equal(np.stack(online), behaviour_at(place.folder, asked))


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


@pytest.fixture
def broken(store: FeatureStore, place: Place) -> "_Breaking":
    return _Breaking(store, place)


def _num(reader: OnlineReader, clock: SimulatedClock, name: str = "submissions_30d") -> float:
    """Return how many uploads the online rows say that seller s1 made."""
    found = reader.read(upload("q", clock.now() + timedelta(microseconds=1)))
    assert not found.stale
    return float(found.behaviour_F[FEATURE_NAMES.index(name)])


def _past(place: Place, instants: Sequence[datetime]) -> list[float]:
    """Return how many uploads history says that seller s1 had made, at some instants."""
    found = behaviour_at(place.folder, [upload("q", at) for at in instants])
    return [float(value) for value in found[:, FEATURE_NAMES.index("submissions_30d")]]


def _uploads(first: int, last: int, clock: SimulatedClock) -> list[Event]:
    """Return uploads of s1, a second apart, the last of them a second ago."""
    count = last - first
    return [
        from_submission(upload(f"u{first + n}", at), recorded_at=at)
        for n in range(count)
        for at in [clock.now() - timedelta(seconds=count - n)]
    ]


def _anew(stream: FeatureStream) -> FeatureStream:
    """Return the stream as it is after its process was started again."""
    return FeatureStream(stream._ledger, stream._sink, stream._letters, stream._clock)


def test_a_stopped_stream_goes_on_where_it_was(
    stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock, reader: OnlineReader
) -> None:
    events = drawn_events(Random(5), 200)
    ledger.append(events[:120])
    clock.move_to(events[-1].occurred_at + DAY)
    assert stream.step().events == 120
    again = _anew(stream)
    step = again.step()
    assert (step.known, step.events, step.versions) == (120, 0, 0)
    ledger.append(events[120:])
    assert again.step().events == len(events) - 120
    state = ActivityState()
    for stored in ledger.read(FOLDED, in_time_order=True):
        state.observe(to_record(stored.event))
    for n in range(20):
        asked = drawn_upload(Random(n), f"q{n}", clock.now())
        np.testing.assert_array_equal(reader.read(asked).behaviour_F, state.features(asked)[0])


@pytest.mark.parametrize("call", ["write", "write_online", "beat"])
def test_a_first_step_that_fails_is_done_again_in_full(
    broken: "_Breaking",
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
    reader: OnlineReader,
    call: str,
) -> None:
    clock.move_to(START + DAY)
    ledger.append(_uploads(0, 10, clock))
    stream = FeatureStream(ledger, broken, letters, clock)
    broken.breaks = call
    with pytest.raises(FeatureStoreUnavailable):
        stream.step()
    broken.breaks = ""
    stream.step()
    assert _num(reader, clock) == 10


@pytest.mark.parametrize("call", ["write", "write_online", "beat"])
def test_a_step_that_fails_is_done_again_in_full(
    broken: "_Breaking",
    stream: FeatureStream,
    place: Place,
    ledger: SqliteLedger,
    reader: OnlineReader,
    call: str,
) -> None:
    """Whatever fails, and whether the process lives on: nothing is lost, and history says what it would have said."""
    clock = SimulatedClock(START + DAY)
    stream = FeatureStream(ledger, broken, stream._letters, clock)
    stream.step()
    events = _uploads(0, 5, clock)
    ledger.append(events)
    broken.breaks = call
    with pytest.raises(FeatureStoreUnavailable):
        stream.step()
    broken.breaks = ""
    clock.move_to(clock.now() + timedelta(seconds=10))
    ledger.append(_uploads(5, 6, clock))
    (stream if call == "write" else _anew(stream)).step()
    assert _num(reader, clock) == 6
    just_after = [event.occurred_at + timedelta(milliseconds=1) for event in events]
    assert _past(place, just_after) == [1, 2, 3, 4, 5]


def test_a_ledger_that_fails_while_it_is_folded_again_costs_nothing(
    stream: FeatureStream,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    reader: OnlineReader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock.move_to(START + DAY)
    ledger.append(_uploads(0, 10, clock))
    stream.step()
    again = _anew(stream)
    whole = ledger.read

    def cut_off(*args: Any, **kwargs: Any) -> Iterator[StoredEvent]:
        yield from islice(whole(*args, **kwargs), 4)
        raise LedgerUnavailable("locked")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "read", cut_off)
        with pytest.raises(LedgerUnavailable):
            again.step()
    clock.move_to(clock.now() + timedelta(seconds=5))
    ledger.append(_uploads(10, 11, clock))
    again.step()
    assert _num(reader, clock) == 11


def test_an_online_store_that_was_lost_is_filled_again_and_history_stays(
    stream: FeatureStream, place: Place, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    """A truth that came late stays unknown to the past: nothing is written into history again."""
    clock.move_to(START + DAY)
    ledger.append(_uploads(0, 3, clock))
    stream.step()
    files = sorted((place.folder / "history").rglob("*.parquet"))
    for path in place.folder.glob("online.sqlite*"):
        path.unlink()
    store = apply(place)
    again = FeatureStream(ledger, FeastSink(store, place), stream._letters, clock)
    again.step()
    assert sorted((place.folder / "history").rglob("*.parquet")) == files
    reader = OnlineReader(open_rows(place, 1.0))
    assert _num(reader, clock) == 3
    reader.close()


def test_a_redis_or_a_file_that_cannot_be_written_is_unavailable(
    stream: FeatureStream, place: Place, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    stream.step()
    clock.move_to(START + DAY)
    ledger.append(_uploads(0, 3, clock))
    with sqlite3.connect(place.online_file) as connection:
        connection.execute("ALTER TABLE tidegate_seller_activity RENAME TO elsewhere")
    with pytest.raises(FeatureStoreUnavailable, match="seller_activity cannot be reached"):
        stream.step()


def test_a_clock_a_little_ahead_holds_nothing_back(
    stream: FeatureStream,
    place: Place,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    clock.move_to(START + DAY)
    stream.step()
    ahead = clock.now() + timedelta(seconds=59)
    ledger.append([from_submission(upload("ahead", ahead), recorded_at=clock.now())])
    clock.move_to(clock.now() + timedelta(seconds=20))
    ledger.append(_uploads(0, 10, clock))
    stream.step()
    asked = upload("q", clock.now() + timedelta(milliseconds=1))
    online = reader.read(asked).behaviour_F
    np.testing.assert_array_equal(online, behaviour_at(place.folder, [asked])[0])
    assert _num(reader, clock, "submissions_1h") == 10


def test_what_was_refused_stays_refused_when_the_stream_starts_again(
    stream: FeatureStream,
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
    reader: OnlineReader,
) -> None:
    clock.move_to(START + DAY)
    stream.step()
    soon = clock.now() + timedelta(seconds=61)
    ledger.append([from_submission(upload("soon", soon), recorded_at=clock.now())])
    assert stream.step().refused == 1
    clock.move_to(clock.now() + DAY)
    for _ in range(2):
        stream = _anew(stream)
        assert stream.step().events == 0
        assert letters.counts() == {Reason.FUTURE: 1}
    assert stream.replay().events == 1
    again = _anew(stream)
    assert again.step().known == 1
    assert _num(reader, clock) == 1


def test_the_past_of_an_import_is_known_at_its_own_time(
    place: Place, stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    imported = from_submission(upload("u1", START), recorded_at=START + 300 * DAY)
    ledger.append([imported])
    clock.move_to(clock.now() + 301 * DAY)
    assert stream.step().refused == 0
    column = FEATURE_NAMES.index("submissions_30d")
    found = behaviour_at(place.folder, [upload("q", START + DAY)])
    assert found[0, column] == 1


def test_events_of_no_seller_change_no_row(stream: FeatureStream, ledger: SqliteLedger) -> None:
    stream.step()
    event = from_submission(upload("u1", START, seller_id=None), recorded_at=START)
    assert event.kind is EventKind.SUBMISSION
    ledger.append([event])
    assert stream.step().versions == 0


class _Breaking(FeastSink):
    """A sink of which one call can be made to fail, after the history was written."""

    breaks = ""

    def write(self, name: str, versions: Sequence[ActivityRow], *, is_online: bool = True) -> None:
        super().write(name, versions, is_online=is_online)
        self._break("write")

    def write_online(self, rows: Sequence[ActivityRow]) -> None:
        self._break("write_online")
        super().write_online(rows)

    def beat(self, through: datetime, sequence: int) -> None:
        self._break("beat")
        super().beat(through, sequence)

    def _break(self, call: str) -> None:
        if self.breaks == call:
            raise FeatureStoreUnavailable("the store is away")
