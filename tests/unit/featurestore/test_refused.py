"""What the stream refuses is kept with its reason, without anybody's data, and can be counted after all."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from featurestore.intake import WAIVABLE
from featurestore.layout import Place, history_folder
from featurestore.letters import DeadLetters, LettersUnavailable, Reason
from featurestore.online import OnlineReader
from featurestore.stream import FeatureStream
from ledger.events import Event, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from tests.feature_events import START, upload

DAY = timedelta(days=1)


def test_an_event_of_another_schema_is_kept_aside_and_counted_when_it_can_be_read(
    stream: FeatureStream, ledger: SqliteLedger, letters: DeadLetters, clock: SimulatedClock
) -> None:
    stream.step()
    event = from_submission(upload("u1", START), recorded_at=START)
    ledger.append([replace(event, payload={**event.payload, "listing": {"price": "cheap"}})])
    assert stream.step().refused == 1
    [letter] = letters.waiting()
    assert (letter.reason, letter.event_id) == (Reason.SCHEMA, "submission:u1")
    assert letter.detail.startswith("listing.")
    assert "cheap" not in letter.detail, "a letter keeps no one's data"
    assert stream.replay(waived=WAIVABLE).events == 0, "what cannot be read never counts"
    with pytest.raises(ValueError, match="only late, null_flood can be waived"):
        stream.replay(waived=[Reason.FUTURE])
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


def test_a_replay_that_was_cut_off_leaves_no_second_file(
    stream: FeatureStream,
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream.step()
    ledger.append([from_submission(upload("u1", START + 2 * DAY), recorded_at=START)])
    stream.step()

    def cut_off(*args: Any) -> None:
        raise LettersUnavailable("locked")

    clock.move_to(clock.now() + 3 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(letters, "mark_replayed", cut_off)
        with pytest.raises(LettersUnavailable):
            stream.replay()
    clock.move_to(clock.now() + DAY)
    assert stream.replay().events == 1
    folder = history_folder(place.folder, "seller_activity")
    assert len(list(folder.glob("part-replay-*.parquet"))) == 1


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


def _without_device(first: int, num: int, num_without: int, clock: SimulatedClock) -> list[Event]:
    """Return uploads of which some, spread evenly, name no device."""
    found = []
    for n in range(num):
        at = clock.now() - timedelta(microseconds=num - n)
        lacks = (n + 1) * num_without // num > n * num_without // num
        one = upload(f"u{first + n}", at, device_fingerprint=None if lacks else "d1")
        found.append(from_submission(one, recorded_at=at))
    return found


def test_a_flood_of_nulls_is_refused_however_small_the_steps_are(
    stream: FeatureStream, ledger: SqliteLedger, letters: DeadLetters, clock: SimulatedClock
) -> None:
    clock.move_to(START + DAY)
    stream.step()
    ledger.append(_without_device(0, 600, 30, clock))
    assert stream.step().refused == 0
    refused = 0
    for n in range(30):
        ledger.append(_without_device(1_000 + 10 * n, 10, 8, clock))
        refused += stream.step().refused
    assert 100 < refused < 240, "what the flood holds of whole uploads counts"
    assert letters.waiting()[-1].detail.startswith("device_fingerprint is missing in")
    assert letters.counts() == {Reason.NULL_FLOOD: refused}
    assert stream.replay(waived=[Reason.NULL_FLOOD]).events == refused


def test_a_lasting_change_is_taken_for_granted_after_a_while(
    stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    clock.move_to(START + DAY)
    stream.step()
    ledger.append(_without_device(0, 1_000, 0, clock))
    stream.step()
    ledger.append(_without_device(5_000, 4_000, 4_000, clock))
    assert stream.step().refused > 500
    ledger.append(_without_device(10_000, 300, 300, clock))
    assert stream.step().refused == 0
