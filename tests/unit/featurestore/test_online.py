"""The online reader over both stores: what is there, what is not, what is too old, and what fails."""

import math
import os
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from featurestore.definitions import BEHAVIOUR
from featurestore.history import ActivityRow
from featurestore.layout import FeaturesNotReady, Place, without_secrets
from featurestore.online import _COLUMNS, OnlineReader, RedisRows, open_rows
from featurestore.repository import apply, feast_config
from featurestore.sinks import FeastSink
from moderation.activity import ActivityState
from moderation.activity_rows import RowKind
from moderation.errors import FeatureStoreUnavailable
from moderation.features import FEATURE_NAMES, FEATURES
from moderation.listing import Submission
from tests.feature_events import START, upload

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@dataclass
class Online:
    """One store with what writes and reads it."""

    place: Place
    store: FeatureStore
    sink: FeastSink
    reader: OnlineReader
    redis: subprocess.Popen[bytes] | None = None


@pytest.fixture
def online(either: Place, request: pytest.FixtureRequest) -> Iterator[Online]:
    process = request.getfixturevalue("own_redis")[1] if either.redis_url else None
    store = apply(either)
    reader = OnlineReader(open_rows(either, budget_s=0.5))
    yield Online(either, store, FeastSink(store, either), reader, process)
    reader.close()


def _uploads(num: int, **fields: object) -> list[Submission]:
    goods = {
        "device_fingerprint": "d1",
        "address_fingerprint": "a1",
        "category": "toys",
        "currency": "EUR",
    }
    return [
        upload(f"u{n}", START + n * SECOND, price=5.0 + n, **(goods | fields)) for n in range(num)
    ]


def _write(online: Online, state: ActivityState, at: datetime) -> None:
    rows = [
        ActivityRow(kind, key, value, at, at)
        for kind, key in state.drain()
        if (value := state.value_of(kind, key)) is not None
    ]
    online.sink.write_online(rows)


def _fold(submissions: list[Submission]) -> ActivityState:
    state = ActivityState()
    for submission in submissions:
        state.observe_submission(submission)
    return state


def _named(behaviour_F: np.ndarray) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, behaviour_F.tolist(), strict=True))


def _stored(online: Online) -> bytes:
    """Return the bytes of the one seller, as Feast's own client gives them."""
    found = online.store.get_online_features(
        features=["seller_activity:seller_row"], entity_rows=[{"seller_id": "s1"}]
    ).to_dict()
    value: bytes = found["seller_row"][0]
    return value


def test_reader_feast_and_fold_say_the_same(online: Online) -> None:
    state = _fold(_uploads(9))
    _write(online, state, START + HOUR)
    online.sink.beat(START + HOUR, 9)
    asked = _uploads(1)[0].model_copy(update={"submission_id": "q", "submitted_at": START + HOUR})
    read = online.reader.read(asked)
    expected, newest = state.features(asked)
    np.testing.assert_array_equal(read.behaviour_F, expected)
    assert (read.newest, read.lag_s, read.stale, read.empty) == (newest, 0, (), ())
    keys = {"seller_id": "s1", "device_id": "d1", "address_id": "a1", "price_id": "toys|EUR"}
    by_feast = online.store.get_online_features(
        features=online.store.get_feature_service(BEHAVIOUR),
        entity_rows=[{**keys, "submission": asked.model_dump_json()}],
    ).to_dict()
    theirs = np.array([by_feast[name][0] for name in FEATURE_NAMES], np.float32)
    np.testing.assert_array_equal(theirs, expected)


def test_a_new_seller_has_zeros_and_no_fault(online: Online) -> None:
    online.sink.beat(START, 1)
    read = online.reader.read(upload("q", START, seller_id="stranger", device_fingerprint="d"))
    found = _named(read.behaviour_F)
    assert (found["submissions_30d"], found["devices_30d"]) == (0, 1)
    assert (read.newest, read.empty, read.stale) == (None, (), ())


def test_a_row_that_holds_nothing_is_told_from_none(online: Online) -> None:
    """A null that was written is a fault upstream; a row that was never written is a new device."""
    _write(online, _fold(_uploads(3)), START + HOUR)
    provider, view = online.store._get_provider(), online.store.get_feature_view("device_activity")
    key = EntityKey(join_keys=["device_id"], entity_values=[Value(string_val="d1")])
    null = {"device_row": Value()}
    at = START + 2 * HOUR
    provider.online_write_batch(online.store.config, view, [(key, null, at, at)], None)
    online.sink.beat(at, 3)
    asked = upload("q", at, device_fingerprint="d1", seller_id="s2")
    read = online.reader.read(asked)
    assert read.empty == ("device_activity",)
    assert np.isnan(_named(read.behaviour_F)["sellers_on_device_30d"])
    other = upload("q", at, device_fingerprint="d2", seller_id="s2")
    assert online.reader.read(other).empty == ()


def test_an_older_event_never_overwrites_a_newer_one(online: Online) -> None:
    at = START + HOUR
    tick = timedelta(microseconds=1)
    written = [(at, b"new"), (at - HOUR, b"older"), (at, b"same"), (at - tick, b"just older")]
    for instant, value in written:
        online.sink.write_online([ActivityRow(RowKind.SELLER, "s1", value, instant, instant)])
    assert _stored(online) == b"new"
    later = ActivityRow(RowKind.SELLER, "s1", b"newer", at + tick, at + tick)
    online.sink.write_online([later])
    assert _stored(online) == b"newer", "what is newer within the same second counts"


def test_features_are_stale_by_their_own_windows(online: Online) -> None:
    _write(online, _fold(_uploads(3)), START)
    online.sink.beat(START, 3)
    fresh = online.reader.read(upload("q", START + timedelta(seconds=299)))
    late = online.reader.read(upload("q", START + timedelta(seconds=301)))
    later = online.reader.read(upload("q", START + 3 * HOUR))
    gone = online.reader.read(upload("q", START + 2 * 24 * HOUR))
    assert fresh.stale == ()
    assert late.stale == ("submissions_1h",)
    assert late.lag_s == 301
    assert np.isnan(_named(late.behaviour_F)["submissions_1h"])
    assert _named(late.behaviour_F)["submissions_24h"] == 3
    assert later.stale == ("submissions_1h", "submissions_24h", "resubmissions_24h")
    assert len(gone.stale) == len(FEATURES)
    assert np.isnan(gone.behaviour_F).all()


def test_a_store_that_no_stream_ever_wrote_is_stale_throughout(online: Online) -> None:
    _write(online, _fold(_uploads(3)), START)
    read = online.reader.read(upload("q", START))
    assert math.isinf(read.lag_s)
    assert len(read.stale) == len(FEATURES)


def test_a_row_that_cannot_be_read_is_unknown_not_a_new_seller(online: Online) -> None:
    online.sink.beat(START, 1)
    online.sink.write_online([ActivityRow(RowKind.SELLER, "s1", b"garbage", START, START)])
    broken, other = online.reader.read_many(
        [upload("q", START, device_fingerprint="d"), upload("q", START, seller_id="s2")]
    )
    found = _named(broken.behaviour_F)
    assert broken.empty == ("seller_activity",)
    assert found.pop("sellers_on_device_30d") == 1
    assert np.isnan(list(found.values())).all()
    assert (other.empty, _named(other.behaviour_F)["submissions_30d"]) == ((), 0)


def test_a_store_that_does_not_answer_costs_no_more_than_the_budget(
    online: Online, tmp_path: Path
) -> None:
    online.sink.beat(START, 1)
    asked = upload("q", START)
    online.reader.read(asked)
    if online.redis:
        online.redis.terminate()
        online.redis.wait(10)
        with pytest.raises(FeatureStoreUnavailable, match="redis://127.0.0.1"):
            online.reader.read(asked)
        return
    # A reader does not wait for a writer; only one who holds the whole file stops it.
    blocker = sqlite3.connect(online.place.online_file, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    online.reader.read(asked)
    blocker.execute("ROLLBACK")
    blocker.close()
    lost = OnlineReader(open_rows(online.place, budget_s=0.1))
    online.place.online_file.rename(tmp_path / "elsewhere")
    with pytest.raises(FeatureStoreUnavailable, match="No such file"):
        lost.read(asked)


def test_a_reader_leaves_a_file_that_was_replaced(tmp_path: Path) -> None:
    place = Place(tmp_path / "features")
    sink = FeastSink(apply(place), place)
    sink.beat(START, 1)
    reader = OnlineReader(open_rows(place, budget_s=1.0))
    assert reader.read(upload("q", START)).through == START
    for file in place.folder.glob("online.sqlite*"):
        file.unlink()
    FeastSink(apply(place), place).beat(START + HOUR, 2)
    assert reader.read(upload("q", START + HOUR)).through == START + HOUR
    reader.close()


def test_an_upload_of_the_past_is_stale_throughout(online: Online) -> None:
    _write(online, _fold(_uploads(3)), START)
    online.sink.beat(START + HOUR, 3)
    read = online.reader.read(upload("q", START - HOUR))
    assert len(read.stale) == len(FEATURES)


def test_threads_that_end_leave_no_connection_behind(online: Online) -> None:
    online.sink.beat(START, 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(40):
        thread = threading.Thread(target=online.reader.read, args=[upload("q", START)])
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 6


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:1/2", "h:1,db=2"),
        ("redis://:p%40ss@h", "h:6379,db=0,password=p@ss"),
        ("rediss://u:p@h:1/3", "h:1,db=3,username=u,password=p,ssl=True"),
    ],
)
def test_a_redis_url_is_said_in_feasts_way(tmp_path: Path, url: str, expected: str) -> None:
    assert feast_config(Place(tmp_path, url))["online_store"]["connection_string"] == expected
    assert "p@ss" not in without_secrets(url)


def test_an_url_of_another_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FeaturesNotReady, match="redis://host:port/db"):
        feast_config(Place(tmp_path, "postgres://h/db"))


def test_keys_are_laid_out_as_feast_lays_them_out() -> None:
    for kind, column in _COLUMNS.items():
        for text in ("s1", "", "продавец", "x" * 300):
            key = EntityKey(join_keys=[kind.join_key], entity_values=[Value(string_val=text)])
            ours = column.key(text) + b"tidegate"
            assert ours == _redis_key("tidegate", key, entity_key_serialization_version=3)


def test_a_home_without_a_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FeaturesNotReady, match="tidegate features apply"):
        open_rows(Place(tmp_path), budget_s=1)


def test_a_redis_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    reader = OnlineReader(RedisRows("redis://:secret@127.0.0.1:1/0", budget_s=0.2))
    with pytest.raises(FeatureStoreUnavailable, match="127.0.0.1:1") as raised:
        reader.read(upload("q", START))
    assert "secret" not in str(raised.value)
