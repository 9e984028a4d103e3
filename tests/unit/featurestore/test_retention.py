"""Rows past their days go, what any later join sees stays, and readers never meet a row twice or not at all."""

import subprocess
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from featurestore.definitions import BEHAVIOUR, GROUND_TRUTH, declare
from featurestore.history import behaviour_at, note_pruned, pruned_until
from featurestore.layout import CREATED, EVENT_TIME, STREAM, Place, history_folder
from featurestore.letters import DeadLetters, Progress
from featurestore.locks import reading
from featurestore.quiet import quiet_feast
from featurestore.records import letters_of_records
from featurestore.repository import apply
from featurestore.retention import RETENTION, Pruned, prune, settled_files
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from featurestore.view_rows import Row, ViewRows
from ledger.ledger import SqliteLedger
from moderation.activity_rows import RowKind
from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable
from tests.feature_events import START, drawn_events, drawn_upload

DAY = timedelta(days=1)


@dataclass
class Kept:
    """A store that may be pruned."""

    place: Place
    store: FeatureStore
    redis: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.rows = ViewRows(self.store, self.place)


@pytest.fixture
def kept(either: Place, request: pytest.FixtureRequest) -> Kept:
    process = request.getfixturevalue("own_redis")[1] if either.redis_url else None
    return Kept(either, apply(either), process)


def _streamed(place: Place, store: FeatureStore, ledger: SqliteLedger, num: int = 160) -> datetime:
    """Stream events of 120 days in many steps, and return the instant of the last."""
    letters, clock = DeadLetters(place.stream_file), SimulatedClock(START)
    stream = FeatureStream(ledger, FeastSink(store, place), letters, clock)
    stream.step()
    rng = Random(3)
    for event in drawn_events(rng, num):
        ledger.append([event])
        clock.move_to(max(clock.now(), event.recorded_at))
        stream.step()
    return clock.now()


def _asked(since: datetime, until: datetime, num: int = 60) -> list:  # type: ignore[type-arg]
    rng = Random(5)
    days = (until - since) / DAY
    return [drawn_upload(rng, f"q{n}", since + rng.uniform(0, days) * DAY) for n in range(num)]


def _joined_by_feast(store: FeatureStore, asked: list) -> pd.DataFrame:  # type: ignore[type-arg]
    frame = pd.DataFrame(
        {
            "seller_id": [one.listing.seller_id or "" for one in asked],
            "device_id": [one.listing.device_fingerprint or "" for one in asked],
            "address_id": [one.listing.address_fingerprint or "" for one in asked],
            "price_id": [f"{one.listing.category}|{one.listing.currency}" for one in asked],
            "submission": [one.model_dump_json() for one in asked],
            EVENT_TIME: pd.to_datetime([one.submitted_at for one in asked]).astype(
                "datetime64[us, UTC]"
            ),
        }
    )
    with quiet_feast():
        found = store.get_historical_features(
            frame, store.get_feature_service(BEHAVIOUR), filter_by_created_timestamp=True
        ).to_df()
    return found.sort_values([EVENT_TIME, "submission"], ignore_index=True)


def test_what_was_known_after_the_horizon_stays_as_it_was(
    place: Place, store: FeatureStore, ledger: SqliteLedger
) -> None:
    end = _streamed(place, store, ledger)
    horizon = START + 60 * DAY
    now = horizon + timedelta(days=RETENTION[RowKind.SELLER.view].days or 0)
    asked = _asked(horizon, end)
    before, by_feast = behaviour_at(place.folder, asked), _joined_by_feast(store, asked)
    old = _asked(START + DAY, horizon - DAY)
    assert not np.isnan(behaviour_at(place.folder, old)).all()
    done = {one.view: one for one in prune(place, now)}
    sellers = done[RowKind.SELLER.view]
    assert 0 < sellers.dropped < sellers.rows
    assert sellers.files_after == 1 < sellers.files
    np.testing.assert_array_equal(behaviour_at(place.folder, asked), before)
    leaky = behaviour_at(place.folder, asked, is_known_only=False)
    pd.testing.assert_frame_equal(_joined_by_feast(store, asked), by_feast)
    again = {one.view: one for one in prune(place, now + timedelta(microseconds=1))}
    assert (again[RowKind.SELLER.view].dropped, again[RowKind.SELLER.view].files) == (0, 1)
    np.testing.assert_array_equal(behaviour_at(place.folder, asked, is_known_only=False), leaky)
    # Of an upload from before the horizon nothing is known: it is no newcomer's.
    assert pruned_until(place.folder) == horizon
    assert np.isnan(behaviour_at(place.folder, old)).all()


def test_what_is_gone_does_not_come_back(tmp_path: Path) -> None:
    assert pruned_until(tmp_path) is None
    note_pruned(tmp_path, START + DAY)
    note_pruned(tmp_path, START)
    assert pruned_until(tmp_path) == START + DAY


def test_a_dry_run_says_it_and_does_nothing(
    place: Place, store: FeatureStore, ledger: SqliteLedger
) -> None:
    _streamed(place, store, ledger, 60)
    files = settled_files(place, RowKind.SELLER.view)
    now = START + 520 * DAY
    said = prune(place, now, is_dry_run=True)
    assert settled_files(place, RowKind.SELLER.view) == files
    assert said == prune(place, now)


def test_a_reader_is_waited_for_and_sees_every_row_once(
    place: Place, store: FeatureStore, ledger: SqliteLedger
) -> None:
    end = _streamed(place, store, ledger, 80)
    asked = _asked(START, end)
    expected = behaviour_at(place.folder, asked)
    found, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            found.append(behaviour_at(place.folder, asked))

    reader = threading.Thread(target=read)
    with reading(place.folder):
        pruning = threading.Thread(target=prune, args=(place, end))
        pruning.start()
        pruning.join(1)
        assert pruning.is_alive(), "a reader holds the files"
        assert len(settled_files(place, RowKind.SELLER.view)) > 1
        reader.start()
    pruning.join(30)
    stop.set()
    reader.join(30)
    assert not pruning.is_alive()
    assert len(settled_files(place, RowKind.SELLER.view)) == 1
    found.append(behaviour_at(place.folder, asked))
    for one in found:
        np.testing.assert_array_equal(one, expected)


def test_an_exchange_that_was_cut_off_changes_no_answer(
    place: Place, store: FeatureStore, ledger: SqliteLedger
) -> None:
    """The new file is there and so are the old ones: rows are there twice until the next time."""
    end = _streamed(place, store, ledger, 60)
    asked = _asked(START, end)
    expected, view = behaviour_at(place.folder, asked), RowKind.SELLER.view
    old = {file: file.read_bytes() for file in settled_files(place, view)}
    prune(place, end)
    for file, content in old.items():
        file.write_bytes(content)
    np.testing.assert_array_equal(behaviour_at(place.folder, asked), expected)
    done = {one.view: one for one in prune(place, end + DAY)}
    assert done[view].dropped * 2 == done[view].rows
    np.testing.assert_array_equal(behaviour_at(place.folder, asked), expected)


def test_what_a_stream_may_write_again_is_left_alone(
    place: Place, store: FeatureStore, ledger: SqliteLedger
) -> None:
    end = _streamed(place, store, ledger, 40)
    view = RowKind.SELLER.view
    progress = DeadLetters(place.stream_file).progress()
    assert progress
    unsaved = history_folder(place.folder, view) / f"part-{progress.sequence + 1:012d}.parquet"
    unsaved.write_bytes(settled_files(place, view)[0].read_bytes())
    prune(place, end)
    assert unsaved.exists()
    assert unsaved not in settled_files(place, view)


def _truth(name: str, at: datetime) -> Row:
    return {
        "listing_id": name,
        "policy_id": "p",
        "violates": 1,
        "source": "review",
        "adjudicated": 0,
        "propensity": 1.0,
        "reviewed_us": 0,
        EVENT_TIME: at,
        CREATED: at,
    }


def _pruned(place: Place, now: datetime, *, is_dry_run: bool = False) -> Pruned:
    [found] = [o for o in prune(place, now, is_dry_run=is_dry_run) if o.view == GROUND_TRUTH]
    return found


def test_rows_past_their_days_leave_history_and_online(kept: Kept) -> None:
    days = RETENTION[GROUND_TRUTH].days
    assert days
    rows = [_truth("old", START), _truth("new", START + DAY)]
    kept.rows.push(GROUND_TRUTH, rows)
    kept.rows.append(GROUND_TRUTH, "kept", rows)
    letters_of_records(kept.place).save_progress(Progress(0, 2))
    decision = {"listing_id": "old", "tier": "review", "degraded": 0}
    fresh = START + 300 * DAY
    kept.rows.push("decisions", [{**decision, EVENT_TIME: fresh, CREATED: fresh}])
    now = START + timedelta(days=days)
    said = _pruned(kept.place, now, is_dry_run=True)
    assert (said.rows, said.dropped, said.online) == (2, 1, 1)
    assert _pruned(kept.place, now).online == 1
    assert _pruned(kept.place, now).online == 0
    keys = [{"listing_id": name, "policy_id": "p"} for name in ("old", "new")]
    found = kept.rows.newest(GROUND_TRUTH, keys, ["violates"])
    assert [one["violates"] for one in found] == [None, 1]
    [other] = kept.rows.newest("decisions", [{"listing_id": "old"}], ["tier"])
    assert other["tier"] == "review", "of the same key, but another view"
    if kept.redis:
        kept.redis.terminate()
        kept.redis.wait(10)
        with pytest.raises(FeatureStoreUnavailable, match="redis://127.0.0.1"):
            prune(kept.place, now)
    else:
        kept.place.online_file.rename(kept.place.folder / "aside")
        with pytest.raises(FeatureStoreUnavailable, match="online.sqlite"):
            prune(kept.place, now)


def test_every_view_says_how_long_it_is_kept(tmp_path: Path) -> None:
    from feast import FeatureView

    views = {one.name: one for one in declare(tmp_path) if isinstance(one, FeatureView)}
    assert set(RETENTION) == set(views)
    for name, view in views.items():
        keys = {column.name for column in view.entity_columns}
        assert set(RETENTION[name].keys) == keys
        days = RETENTION[name].days
        if days is not None and view.ttl:
            assert timedelta(days=days) >= view.ttl
    assert [name for name, one in RETENTION.items() if one.days is None] == [STREAM]
