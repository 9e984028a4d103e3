"""A past that is imported when the stream has long begun: history and online rows are what they would have been."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from featurestore.history import behaviour_at
from featurestore.layout import Place
from featurestore.letters import DeadLetters
from featurestore.online import OnlineReader, open_rows
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from ledger.events import Event, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.listing import Submission
from tests.feature_events import START, upload

DAY = timedelta(days=1)
NOW = START + 30 * DAY


class Shop:
    """A ledger that is streamed into one store."""

    def __init__(self, folder: Path) -> None:
        self.place, self.clock = Place(folder / "features"), SimulatedClock(NOW)
        self.ledger = SqliteLedger(folder / "ledger.sqlite")
        self.sink = FeastSink(apply(self.place), self.place)
        self.letters = DeadLetters(self.place.stream_file)
        self.reopen()

    def reopen(self) -> None:
        self.stream = FeatureStream(self.ledger, self.sink, self.letters, self.clock)

    def take(self, events: list[Event]) -> None:
        self.ledger.append(events)
        self.stream.step()

    def offline(self, asked: list[Submission]) -> np.ndarray:
        return behaviour_at(self.place.folder, asked)

    def online(self, at: datetime) -> np.ndarray:
        reader = OnlineReader(open_rows(self.place, budget_s=1.0))
        found = reader.read(upload("q", at)).behaviour_F
        reader.close()
        return found


def _table(name: str, first: datetime) -> list[Event]:
    """Return the events of an imported table: recorded when they happened."""
    uploads = [upload(f"{name}{n}", first + n * DAY) for n in range(4)]
    return [from_submission(one, recorded_at=one.submitted_at) for one in uploads]


OLD, NEW = _table("old", START), _table("new", START + 10 * DAY)
ASKED = [upload(f"q{n}", START + (n + 0.5) * DAY) for n in range(16)]


@pytest.fixture
def at_once(tmp_path: Path) -> Shop:
    found = Shop(tmp_path / "at_once")
    found.take([*OLD, *NEW])
    return found


def test_the_order_of_imports_does_not_matter(tmp_path: Path, at_once: Shop) -> None:
    later = Shop(tmp_path / "later")
    later.take(NEW)
    later.take(OLD)
    np.testing.assert_array_equal(later.offline(ASKED), at_once.offline(ASKED))
    later.clock.move_to(NOW + timedelta(seconds=1))
    later.stream.step()
    np.testing.assert_array_equal(later.online(NOW), at_once.online(NOW))
    assert later.letters.counts() == {}


def test_the_stream_goes_on_from_there_and_after_a_restart(tmp_path: Path, at_once: Shop) -> None:
    later = Shop(tmp_path / "later")
    later.take(NEW)
    later.take(OLD)
    end = NOW + timedelta(minutes=5)
    for shop in (at_once, later):
        shop.clock.move_to(end)
        shop.reopen()
        shop.take([from_submission(upload("live", end), recorded_at=end)])
    asked = [*ASKED, upload("q", end + timedelta(minutes=1))]
    np.testing.assert_array_equal(later.offline(asked), at_once.offline(asked))
    after = end + timedelta(minutes=1)
    np.testing.assert_array_equal(later.online(after), at_once.online(after))


def test_an_import_that_was_cut_off_is_written_when_it_is_tried_again(
    tmp_path: Path, at_once: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = Shop(tmp_path / "later")
    later.take(NEW)
    later.ledger.append(OLD)

    def cut(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(FeastSink, "write", cut)
        with pytest.raises(KeyboardInterrupt):
            later.stream.step()
    assert later.letters.progress() is None, "nobody takes half a history for a whole one"
    later.reopen()
    later.stream.step()
    np.testing.assert_array_equal(later.offline(ASKED), at_once.offline(ASKED))


def test_an_event_that_was_held_up_does_not_begin_it_again(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.take(NEW)
    before = shop.letters.progress()
    assert before is not None
    late = upload("late", NEW[-1].occurred_at - timedelta(hours=3))
    shop.take([from_submission(late, recorded_at=NEW[-1].recorded_at - timedelta(hours=2))])
    after = shop.letters.progress()
    assert after is not None
    assert (after.past, after.sequence) == (before.past, before.sequence + 1)
