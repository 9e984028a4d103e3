"""A seller taken out of the feature store: history, online rows of both stores, what the stream holds and refused."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore
from feast.data_source import PushMode

from featurestore.history import behaviour_at
from featurestore.layout import CREATED, EVENT_TIME, Place, history_folder
from featurestore.letters import DeadLetters, Progress
from featurestore.online import OnlineReader, open_rows
from featurestore.records import open_records
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from featurestore.view_rows import ViewRows
from ledger.erasures import Erasure
from ledger.events import Event, EventKind, from_submission, to_ground_truth, to_submission
from ledger.ledger import SqliteLedger
from moderation.activity_rows import PlaceActivity, RowKind, mark
from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission
from tests.feature_events import START, drawn_events, upload
from tidegate.erasing import belonging

GONE = "the-erased-seller"
END = START + timedelta(days=140)
MINUTE = timedelta(minutes=1)
PRICE = FEATURE_NAMES.index("price_log_ratio")


@dataclass
class Shop:
    """A ledger that is streamed into one feature store."""

    place: Place
    store: FeatureStore
    ledger: SqliteLedger
    letters: DeadLetters
    clock: SimulatedClock
    stream: FeatureStream
    reader: OnlineReader

    @classmethod
    def open(cls, folder: Path, url: str | None = None) -> "Shop":
        place, clock = Place(folder / "features", url), SimulatedClock(END)
        store, ledger = apply(place), SqliteLedger(folder / "ledger.sqlite")
        letters = DeadLetters(place.stream_file)
        stream = FeatureStream(ledger, FeastSink(store, place), letters, clock)
        return cls(
            place, store, ledger, letters, clock, stream, OnlineReader(open_rows(place, 1.0))
        )

    def fill(self, events: list[Event]) -> None:
        """Stream the first half as the past, the rest as it comes."""
        half = len(events) // 2
        self.ledger.append(events[:half])
        self.stream.step()
        for begin in range(half, len(events), 7):
            self.ledger.append(events[begin : begin + 7])
            self.stream.step()

    def erase(self) -> Erasure:
        return self.ledger.erase(GONE, belonging, self.clock.now())

    def online_F(self, asked: list[Submission]) -> np.ndarray:
        return np.stack([read.behaviour_F for read in self.reader.read_many(asked)])


@pytest.fixture
def shop(either: Place, tmp_path: Path) -> Iterator[Shop]:
    found = Shop.open(tmp_path, either.redis_url)
    yield found
    found.reader.close()


def _events(num: int = 240) -> list[Event]:
    """Return drawn events in the order in which they come; s1 has a name that can be searched for."""
    events = []
    for event in drawn_events(Random(5), num):
        if event.kind is EventKind.SUBMISSION and event.seller_id == "s1":
            one = to_submission(event)
            listing = one.listing.model_copy(update={"seller_id": GONE})
            moved = one.model_copy(update={"listing": listing})
            event = from_submission(moved, recorded_at=event.recorded_at)
        elif event.seller_id == "s1":
            event = replace(event, seller_id=GONE)
        events.append(event)
    places = {"device_fingerprint": "d1", "address_fingerprint": "a1"}
    last = upload("last", END - timedelta(days=1), seller_id=GONE, **places)
    return [*events, from_submission(last, recorded_at=last.submitted_at)]


def _asked(at_minutes: int = 0) -> list[Submission]:
    goods = {"category": "toys", "currency": "EUR", "price": 20.0}
    return [
        upload(
            f"q{number}-{at_minutes}",
            END + at_minutes * MINUTE,
            seller_id=seller,
            device_fingerprint=f"d{number % 3 + 1}",
            address_fingerprint=f"a{number % 2 + 1}",
            **goods,
        )
        for number, seller in enumerate(("s2", "s3", "s4", "s2", "s3", "s4"))
    ]


def _past(events: list[Event]) -> list[Submission]:
    """Return uploads of the other sellers as questions about every instant."""
    uploads = [to_submission(one) for one in events if one.kind is EventKind.SUBMISSION]
    return [one for one in uploads if one.listing.seller_id != GONE]


def _everything(shop: Shop, folder: Path) -> bytes:
    """Return every byte of the feature store; pages of Parquet are read, as they are compressed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = b"".join(path.read_bytes() for path in files)
    for path in files:
        if path.suffix == ".parquet":
            found += repr(pq.read_table(path).to_pylist()).encode()
    if shop.place.redis_url:
        client = redis.Redis.from_url(shop.place.redis_url)
        for key in client.scan_iter("*"):
            found += key + repr(client.hgetall(key)).encode()
        client.close()
    return found


def test_an_erased_seller_leaves_the_feature_store(shop: Shop, tmp_path: Path) -> None:
    """What is left is what a store holds that never saw the seller, but for prices, which stay as they were."""
    events = _events()
    shop.fill(events)
    before_F, past_F = shop.online_F(_asked()), behaviour_at(shop.place.folder, _past(events))
    assert GONE.encode() in _everything(shop, shop.place.folder)
    assert _marked(shop.place)
    shop.erase()
    done = shop.stream.step()
    assert done.erased == 1
    never = Shop.open(tmp_path / "never")
    never.fill([event for event in events if event.seller_id != GONE])
    after_F = shop.online_F(_asked())
    np.testing.assert_array_equal(
        np.delete(after_F, PRICE, axis=1), np.delete(never.online_F(_asked()), PRICE, axis=1)
    )
    np.testing.assert_array_equal(after_F[:, PRICE], before_F[:, PRICE])
    found_F = behaviour_at(shop.place.folder, _past(events))
    expected_F = behaviour_at(never.place.folder, _past(events))
    np.testing.assert_array_equal(
        np.delete(found_F, PRICE, axis=1), np.delete(expected_F, PRICE, axis=1)
    )
    np.testing.assert_array_equal(found_F[:, PRICE], past_F[:, PRICE])
    changed = np.flatnonzero((before_F != after_F).any(axis=0) & ~np.isnan(before_F).all(axis=0))
    assert {FEATURE_NAMES[one] for one in changed} == {
        "sellers_on_device_30d",
        "sellers_on_address_30d",
    }
    assert GONE.encode() not in _everything(shop, shop.place.folder)
    assert not _marked(shop.place), "no device and no address remembers the seller"
    (erasure,) = shop.ledger.erasures.all()
    assert erasure.features_at == END
    assert erasure.counts["feature_history_rows"] > 10
    assert erasure.counts["feature_online_rows"] >= 1
    assert shop.stream.step().erased == 0
    never.reader.close()


def test_decisions_and_truths_about_an_erased_seller_go_too(shop: Shop) -> None:
    shop.fill(_events())
    records = open_records(shop.place, shop.ledger, shop.clock)
    records.step()
    truths = [to_ground_truth(one.event) for one in shop.ledger.read((EventKind.GROUND_TRUTH,))]
    sellers = {
        one.event.submission_id: one.event.seller_id
        for one in shop.ledger.read((EventKind.SUBMISSION,))
    }
    keys = [{"listing_id": one.submission_id, "policy_id": one.policy} for one in truths]
    is_gone = [sellers.get(one.submission_id) == GONE for one in truths]
    assert any(is_gone)
    rows = ViewRows(shop.store, shop.place)

    def known() -> list[bool]:
        return [one["source"] is not None for one in rows.newest("ground_truth", keys)]

    before = known()
    assert any(there and gone for there, gone in zip(before, is_gone, strict=True))
    shop.erase()
    shop.stream.step()
    open_records(shop.place, shop.ledger, shop.clock).step()
    assert known() == [there and not gone for there, gone in zip(before, is_gone, strict=True)]
    files = history_folder(shop.place.folder, "ground_truth").glob("*.parquet")
    left = {name for path in files for name in pq.read_table(path)["listing_id"].to_pylist()}
    assert left
    assert not [name for name in left if sellers.get(name) == GONE]


def _marked(place: Place) -> list[str]:
    """Return the files in which a device or an address remembers the seller."""
    return [
        path.name
        for kind in (RowKind.DEVICE, RowKind.ADDRESS)
        for path in history_folder(place.folder, kind.view).glob("*.parquet")
        for row in pq.read_table(path)[kind.column].to_pylist()
        if mark(GONE) in PlaceActivity.decode(row).sellers
    ]


def test_the_stream_goes_on_as_if_the_seller_had_never_been(shop: Shop) -> None:
    events = _events()
    cut = len(events) * 3 // 4
    shop.fill(events[:cut])
    shop.erase()
    shop.fill([event for event in events[cut:] if event.seller_id != GONE])
    asked = _asked(1)
    shop.clock.advance(60)
    shop.stream.step()
    online_F = shop.online_F(asked)
    np.testing.assert_array_equal(online_F, behaviour_at(shop.place.folder, asked))
    again = FeatureStream(shop.ledger, FeastSink(shop.store, shop.place), shop.letters, shop.clock)
    again.step()
    np.testing.assert_array_equal(shop.online_F(asked), online_F)


def test_views_of_submissions_lose_those_of_the_seller(shop: Shop) -> None:
    shop.fill(_events(60))
    own = next(s.event for s in shop.ledger.read() if s.event.seller_id == GONE).submission_id
    at = pd.to_datetime([END, END]).astype("datetime64[us, UTC]")
    rows = {"listing_id": [own, "other"], EVENT_TIME: at, CREATED: at}
    decisions = pd.DataFrame(rows | _columns(shop, "decisions", {"seller_id": [GONE, "s2"]}))
    shop.store.push("decisions_push", decisions, to=PushMode.ONLINE)
    file = history_folder(shop.place.folder, "decisions") / "part-1.parquet"
    decisions.to_parquet(file)
    assert _online(shop, own) == "review"
    shop.erase()
    shop.stream.step()
    assert _online(shop, own) is None
    assert _online(shop, "other") == "review"
    assert pq.read_table(file)["listing_id"].to_pylist() == ["other"]


def _columns(shop: Shop, view: str, known: dict[str, list[str]]) -> dict[str, list[object]]:
    kinds: dict[str, object] = {"String": "review", "Int64": 1, "Float64": 0.5}
    features = shop.store.get_feature_view(view).features
    filled = {one.name: [kinds[str(one.dtype)]] * 2 for one in features}
    return filled | {name: list(values) for name, values in known.items()}


def _online(shop: Shop, submission: str) -> object:
    found = shop.store.get_online_features(
        features=["decisions:tier"], entity_rows=[{"listing_id": submission}]
    ).to_dict()
    return found["tier"][0]


def test_an_erasure_that_failed_half_way_is_done_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.fill(_events(60))
    shop.erase()

    def away(*arguments: object) -> int:
        raise FeatureStoreUnavailable("the store is away")

    for broken in ("featurestore.sinks.erase_online", "featurestore.sinks.FeastSink.write_online"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, away)
            with pytest.raises(FeatureStoreUnavailable):
                shop.stream.step()
        assert len(shop.ledger.erasures.in_features()) == 1
    assert shop.stream.step().erased == 1
    assert GONE.encode() not in _everything(shop, shop.place.folder)
    assert shop.ledger.erasures.in_features() == []


def test_a_seller_who_came_back_meanwhile_is_kept(shop: Shop) -> None:
    events = _events(40)
    shop.fill(events)
    shop.erase()
    back = upload("back", END - MINUTE, seller_id=GONE, device_fingerprint="d1")
    shop.ledger.append([from_submission(back, recorded_at=END - MINUTE)])
    shop.letters.save_progress(_come_to(shop))  # a step that had begun before took it already
    assert shop.stream.step().erased == 1
    asked = [upload("q", END, seller_id=GONE, device_fingerprint="d1")]
    column = FEATURE_NAMES.index("submissions_30d")
    assert shop.online_F(asked)[0, column] == 1
    assert behaviour_at(shop.place.folder, asked)[0, column] == 1


def _come_to(shop: Shop) -> Progress:
    progress = shop.letters.progress()
    assert progress
    return replace(progress, sequence=shop.ledger.last_sequence())


def test_refused_events_of_the_seller_go_too(shop: Shop) -> None:
    shop.fill(_events(20))
    late = [upload(name, START, seller_id=seller) for name, seller in (("x", GONE), ("y", "s2"))]
    shop.ledger.append([from_submission(one, recorded_at=END) for one in late])
    assert shop.stream.step().refused == 2
    shop.erase()
    shop.stream.step()
    assert [letter.event_id for letter in shop.letters.waiting()] == ["submission:y"]
    assert shop.letters.progress() == _come_to(shop)


def test_the_stream_passes_over_newest_events_of_an_erased_seller(shop: Shop) -> None:
    shop.fill(_events(20))
    shop.ledger.append([from_submission(upload("x", END, seller_id=GONE), recorded_at=END)])
    shop.erase()
    shop.stream.step()
    assert shop.letters.progress() == _come_to(shop)
