"""Profiles of sellers: one batch per instant, by the one function, and online only what is new."""

from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from featurestore.history import behaviour_at
from featurestore.layout import EVENT_TIME, Place, history_folder
from featurestore.letters import DeadLetters
from featurestore.profile import PROFILE, active_sellers, write_profiles
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from featurestore.view_rows import ViewRows
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from tests.feature_events import START, drawn_events, upload

DAY = timedelta(days=1)
UNKNOWN = (
    "price_log_ratio",
    "sellers_on_device_30d",
    "sellers_on_address_30d",
    "resubmissions_24h",
)


@pytest.fixture
def streamed(either: Place, tmp_path: Path) -> tuple[Place, FeatureStore]:
    """Give a store that holds what four sellers did in a month."""
    return _streamed(either, tmp_path)


def _streamed(place: Place, folder: Path) -> tuple[Place, FeatureStore]:
    store, ledger = apply(place), SqliteLedger(folder / "ledger.sqlite")
    ledger.append(drawn_events(Random(3), 120, days=30))
    clock = SimulatedClock(START + 100 * DAY)
    FeatureStream(ledger, FeastSink(store, place), DeadLetters(place.stream_file), clock).step()
    return place, store


def _online(store: FeatureStore, place: Place, seller: str = "s1") -> dict[str, Any]:
    [found] = ViewRows(store, place).newest(PROFILE, [{"seller_id": seller}])
    return found


def _history(place: Place) -> pd.DataFrame:
    files = sorted(history_folder(place.folder, PROFILE).glob("part-2*.parquet"))
    return pd.concat([pd.read_parquet(one) for one in files], ignore_index=True)


def test_a_profile_is_the_behaviour_of_the_instant(streamed: tuple[Place, FeatureStore]) -> None:
    place, store = streamed
    at = START + 31 * DAY
    done = write_profiles(store, place, at, at + DAY)
    assert (done.sellers, done.is_online, done.through) == (4, True, START + 100 * DAY)
    [expected] = behaviour_at(place.folder, [upload("q", at, listing_id="none")])
    found = _online(store, place)
    for name, value in zip(FEATURE_NAMES, expected.tolist(), strict=True):
        assert found[name] == (None if name in UNKNOWN else value), name
    history = _history(place).set_index("seller_id")
    assert history.loc["s1", "submissions_30d"] == found["submissions_30d"] > 0
    assert history[list(UNKNOWN)].isna().all().all()


def test_a_second_batch_moves_only_what_is_new(
    streamed: tuple[Place, FeatureStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, store = streamed
    moved: list[datetime] = []
    online = type(store._get_provider().online_store)
    write = online.online_write_batch

    def counted(self: Any, config: Any, table: Any, data: Any, progress: Any) -> None:
        moved.extend(row[2] for row in data)
        write(self, config, table, data, progress)

    monkeypatch.setattr(online, "online_write_batch", counted)
    first, second = START + 31 * DAY, START + 32 * DAY
    for at in (first, second):
        moved.clear()
        write_profiles(store, place, at, START + 100 * DAY)
        assert len(moved) == 4
        assert {pd.Timestamp(one).tz_localize(None) for one in moved} == {
            pd.Timestamp(at).tz_localize(None)
        }
    moved.clear()
    newest, history = _online(store, place), _history(place).set_index(["seller_id", EVENT_TIME])
    assert newest["seller_age_days"] == history.loc[("s1", second), "seller_age_days"]
    apply(place)
    for at in (first, second):
        assert not write_profiles(store, place, at, START + 100 * DAY).is_online
    assert moved == []
    assert len(_history(place)) == 8, "the same instant takes the place of the first"
    assert _online(store, place) == newest
    assert not write_profiles(apply(place), place, first - DAY, START + 100 * DAY).is_online
    assert _online(store, place) == newest, "an older batch is history alone"
    assert len(_history(place)) == 12


def test_only_sellers_of_whom_something_happened_have_one(
    streamed: tuple[Place, FeatureStore],
) -> None:
    place, store = streamed
    assert active_sellers(place, START - DAY) == []
    assert active_sellers(place, START + 31 * DAY) == ["s1", "s2", "s3", "s4"]
    assert active_sellers(place, START + 400 * DAY) == []
    assert write_profiles(store, place, START - DAY, START).sellers == 0


def test_an_instant_that_has_not_come_is_refused(streamed: tuple[Place, FeatureStore]) -> None:
    place, store = streamed
    with pytest.raises(ValueError, match="has not come yet"):
        write_profiles(store, place, START + DAY, START)


def test_null_is_null_in_feasts_own_join(streamed: tuple[Place, FeatureStore]) -> None:
    place, store = streamed
    at = START + 31 * DAY
    write_profiles(store, place, at, at)
    asked = pd.DataFrame(
        {
            "seller_id": ["s1", "stranger"],
            "event_timestamp": pd.to_datetime([at, at]).astype("datetime64[us, UTC]"),
        }
    )
    names = [f"{PROFILE}:{name}" for name in ("submissions_30d", "price_log_ratio")]
    found = store.get_historical_features(asked, names).to_df().set_index("seller_id")
    assert found["submissions_30d"].isna().to_dict() == {"s1": False, "stranger": True}
    assert found["price_log_ratio"].isna().all()
