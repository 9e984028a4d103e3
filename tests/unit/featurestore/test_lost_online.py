"""An online store that comes back empty or as it was before is filled again; one store has one home."""

import shutil
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from featurestore.definitions import GROUND_TRUTH
from featurestore.history import behaviour_at
from featurestore.layout import FeaturesNotReady, Place
from featurestore.letters import DeadLetters
from featurestore.online import OnlineReader, open_rows
from featurestore.owner import owner_of
from featurestore.records import RECORDS, RecordStream, open_records
from featurestore.repository import apply, open_store
from featurestore.sinks import FeastSink
from featurestore.stream import REFILLED, FeatureStream
from featurestore.view_rows import ViewRows
from featurestore.writer import catch_up, letters_of, open_stream
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from moderation.listing import GroundTruth, TruthSource
from tests.feature_events import START, upload

COLUMN = FEATURE_NAMES.index("submissions_30d")


@dataclass
class Shop:
    """A home and its clock."""

    place: Place
    clock: SimulatedClock = field(default_factory=lambda: SimulatedClock(START))

    def __post_init__(self) -> None:
        apply(self.place)
        self.ledger = SqliteLedger(self.place.folder.parent / "ledger.sqlite")

    def stream(self) -> FeatureStream:
        return open_stream(self.place, self.ledger, self.clock)

    def records(self) -> RecordStream:
        return open_records(self.place, self.ledger, self.clock)

    def add(self, num: int) -> None:
        """Add uploads of s1 and truths about them, one a minute."""
        for _ in range(num):
            self.clock.advance(60)
            now, name = self.clock.now(), f"u{self.clock.now():%H%M}"
            truth = GroundTruth(
                submission_id=name,
                policy="p",
                violates=True,
                source=TruthSource.REVIEW,
                reviewed_at=now,
                known_at=now,
            )
            self.ledger.append([from_submission(upload(name, now), recorded_at=now)])
            self.ledger.append([from_ground_truth(truth, recorded_at=now)])
        self.clock.advance(60)

    def seen(self) -> tuple[float, float]:
        """Return how many uploads of s1 are known online, and in the history."""
        asked = upload("q", self.clock.now() + timedelta(microseconds=1))
        reader = OnlineReader(open_rows(self.place, 1.0))
        try:
            online = float(reader.read(asked).behaviour_F[COLUMN])
        finally:
            reader.close()
        return online, float(behaviour_at(self.place.folder, [asked])[0, COLUMN])

    def truths(self, *names: str) -> list[int | None]:
        rows = ViewRows(open_store(self.place), self.place)
        keys = [{"listing_id": name, "policy_id": "p"} for name in names]
        return [one["violates"] for one in rows.newest(GROUND_TRUTH, keys, ["violates"])]


@pytest.fixture
def server(own_redis: tuple[str, object]) -> str:
    return own_redis[0]


def _refilled(stream: str) -> float:
    return float(REFILLED.labels(stream)._value.get())


def test_a_file_that_came_back_old_is_filled_when_a_stream_starts(tmp_path: Path) -> None:
    shop, kept = Shop(Place(tmp_path / "features")), tmp_path / "kept"
    shop.add(2)
    shop.stream().step()
    shop.records().step()
    kept.mkdir()
    for path in shop.place.folder.glob("online.sqlite*"):
        shutil.copy(path, kept)
    shop.add(5)
    shop.stream().step()
    shop.records().step()
    for path in shop.place.folder.glob("online.sqlite*"):
        path.unlink()
    for path in kept.iterdir():
        shutil.copy(path, shop.place.folder)
    assert shop.truths("u0001", "u0008") == [1, None]
    shop.clock.advance(60)
    shop.stream().step()
    shop.records().step()
    assert shop.seen() == (7, 7)
    assert shop.truths("u0001", "u0008") == [1, 1]


def test_a_store_that_nothing_was_lost_of_is_not_written_again(tmp_path: Path) -> None:
    shop = Shop(Place(tmp_path / "features"))
    activity, records = shop.stream(), shop.records()
    before = _refilled("activity"), _refilled(RECORDS)
    for _ in range(3):
        shop.add(1)
        for _ in range(2):  # the second at the very same instant
            activity.step()
            records.step()
    shop.clock.advance(60)
    shop.stream().step()
    shop.records().step()
    assert (_refilled("activity"), _refilled(RECORDS)) == before


def test_sqlite_after_a_while_on_redis_is_filled(tmp_path: Path, server: str) -> None:
    shop = Shop(Place(tmp_path / "features"))
    shop.add(2)
    shop.stream().step()
    other = Shop(Place(shop.place.folder, server), shop.clock)
    other.add(5)
    other.stream().step()
    assert other.seen() == (7, 7)
    back = Shop(shop.place, shop.clock)
    back.clock.advance(60)
    back.stream().step()
    assert back.seen() == (7, 7)


def test_a_redis_that_is_emptied_is_filled_while_the_stream_runs(
    tmp_path: Path, server: str
) -> None:
    shop = Shop(Place(tmp_path / "features", server))
    activity, records = shop.stream(), shop.records()
    shop.add(4)
    activity.step()
    records.step()
    redis.Redis.from_url(server).flushall()
    shop.add(1)
    assert activity.step().known == shop.ledger.last_sequence()
    records.step()
    assert shop.seen() == (5, 5)
    assert shop.truths("u0001", "u0006") == [1, 1]
    shop.clock.advance(60)
    assert activity.step().known == 0


class _EmptiedBeforeBeat(FeastSink):
    """A sink whose Redis is emptied in the very moment before a beat."""

    url = ""

    def beat(self, through: datetime, sequence: int) -> None:
        if self.url:
            redis.Redis.from_url(self.url).flushall()
        super().beat(through, sequence)


def test_a_beat_hides_no_loss(tmp_path: Path, server: str) -> None:
    shop = Shop(Place(tmp_path / "features", server))
    sink = _EmptiedBeforeBeat(open_store(shop.place), shop.place)
    letters = DeadLetters(shop.place.stream_file)
    stream = FeatureStream(shop.ledger, sink, letters, shop.clock)
    shop.add(4)
    stream.step()
    shop.clock.advance(60)
    stream.step()
    sink.url = server
    shop.clock.advance(60)
    stream.step()
    sink.url = ""
    shop.clock.advance(60)
    stream.step()
    assert shop.seen() == (4, 4)


def test_a_redis_that_came_back_old_is_filled_while_the_stream_runs(
    tmp_path: Path, server: str
) -> None:
    shop = Shop(Place(tmp_path / "features", server))
    activity, records = shop.stream(), shop.records()
    shop.add(2)
    activity.step()
    records.step()
    client: Any = redis.Redis.from_url(server)
    kept = {key: client.dump(key) for key in client.scan_iter()}
    shop.add(3)
    activity.step()
    records.step()
    client.flushall()
    for key, value in kept.items():
        client.restore(key, 0, value)
    shop.clock.advance(60)
    activity.step()
    records.step()
    assert shop.seen() == (5, 5)
    assert shop.truths("u0001", "u0005") == [1, 1]


def test_one_redis_has_one_home(tmp_path: Path, server: str) -> None:
    shop = Shop(Place(tmp_path / "shop" / "features", server))
    shop.add(4)
    stream = shop.stream()
    stream.step()
    (tmp_path / "lab").mkdir()
    lab = Place(tmp_path / "lab" / "features", server)
    ledger = SqliteLedger(tmp_path / "lab" / "ledger.sqlite")
    ledger.append([from_submission(upload("z", START), recorded_at=START)])
    for call in (lambda: apply(lab), lambda: catch_up(lab, ledger, shop.clock)):
        with pytest.raises(FeaturesNotReady, match="another home .*redis://host:port/N"):
            call()
    shop.clock.advance(60)
    stream.step()
    assert shop.seen() == (4, 4)
    catch_up(Place(lab.folder, server.removesuffix("0") + "1"), ledger, shop.clock)
    assert letters_of(lab).progress() is not None


def test_two_homes_that_begin_at_once_do_not_both_go_on(tmp_path: Path, server: str) -> None:
    first, second = (Shop(Place(tmp_path / name / "features", server)) for name in ("a", "b"))
    assert owner_of(first.place) != owner_of(second.place)
    one, other = first.stream(), second.stream()
    one.step()
    second.clock.advance(60)
    with pytest.raises(FeaturesNotReady, match="another home"):
        other.step()
    first.clock.advance(120)
    one.step()
