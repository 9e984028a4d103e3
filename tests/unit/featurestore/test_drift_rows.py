"""Rows of drift: refused unless right and new, and no data as soon as they are past."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from featurestore.definitions import DRIFT_SIGNAL, DRIFT_STATE
from featurestore.drift_rows import UNKNOWN, DriftRowRefused, DriftRows, open_drift_rows
from featurestore.layout import FeaturesNotReady, Place, history_folder
from featurestore.repository import apply
from featurestore.view_rows import ViewRows
from moderation.activity_rows import to_us
from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable
from tests.feature_events import START

HOUR = timedelta(hours=1)
KEY = "m|champion|text|title|all|psi"


@dataclass
class Drift:
    """A store that signals are written into."""

    place: Place
    store: FeatureStore
    clock: SimulatedClock
    rows: DriftRows

    def history(self) -> pd.DataFrame:
        files = sorted(history_folder(self.place.folder, DRIFT_SIGNAL).glob("part-2*.parquet"))
        return pd.concat([pd.read_parquet(one) for one in files], ignore_index=True)


@pytest.fixture
def drift(either: Place) -> Drift:
    return _opened(either)


def _opened(place: Place) -> Drift:
    store, clock = apply(place), SimulatedClock(START + HOUR)
    return Drift(place, store, clock, open_drift_rows(place, clock))


def _signal(sequence: int = 1, end: datetime = START + HOUR, **fields: Any) -> dict[str, Any]:
    row = {
        "signal_id": KEY,
        "model_id": "m",
        "model_version": "b" * 64,
        "arm": "champion",
        "kind": "feature",
        "modality": "text",
        "target": "title",
        "segment": "all",
        "detector": "psi",
        "config_hash": "c1",
        "window_start_us": to_us(end - HOUR),
        "window_end_us": to_us(end),
        "window_seq": sequence,
        "expires_us": to_us(end + 2 * HOUR),
        "n_ref": 1000,
        "n_cur": 100,
        "statistic": 0.25,
        "statistic_kind": "distance",
        "threshold": 0.2,
        "status": 2,
        "streak": 1,
        "event_timestamp": end,
    }
    return row | fields


def test_a_signal_is_read_until_it_expires(drift: Drift) -> None:
    assert drift.rows.write(DRIFT_SIGNAL, [_signal()]) == 1
    [found, other] = drift.rows.read(DRIFT_SIGNAL, [KEY, "nobody"])
    assert (found.why, found.status) == ("current", 2)
    assert found.row
    assert (found.row["statistic"], found.row["p_adjusted"]) == (0.25, None)
    assert (other.row, other.why, other.status) == (None, "never written", UNKNOWN)
    drift.clock.advance(2 * 3600)
    assert drift.rows.read(DRIFT_SIGNAL, [KEY])[0].why == "current"
    drift.clock.advance(1)
    [past] = drift.rows.read(DRIFT_SIGNAL, [KEY])
    assert (past.row, past.status) == (None, UNKNOWN)
    assert past.why == "expired at 2026-03-01T03:00:00+00:00"
    assert drift.rows.read(DRIFT_SIGNAL, []) == []


def test_windows_rise_and_a_correction_is_the_next_number(drift: Drift) -> None:
    drift.rows.write(DRIFT_SIGNAL, [_signal(5)])
    with pytest.raises(DriftRowRefused, match="window_seq 4 is not above 5"):
        drift.rows.write(DRIFT_SIGNAL, [_signal(4, START + 2 * HOUR)])
    with pytest.raises(DriftRowRefused, match="window_seq 5 is not above 5"):
        drift.rows.write(DRIFT_SIGNAL, [_signal(5, status=0)])
    with pytest.raises(DriftRowRefused, match="window_seq 7 is not above 7"):
        drift.rows.write(DRIFT_SIGNAL, [_signal(7), _signal(7, status=0)])
    assert drift.rows.read(DRIFT_SIGNAL, [KEY])[0].row["window_seq"] == 5  # type: ignore[index]
    drift.clock.advance(60)
    drift.rows.write(DRIFT_SIGNAL, [_signal(6, status=0)])
    [found] = drift.rows.read(DRIFT_SIGNAL, [KEY])
    assert (found.status, found.row and found.row["window_seq"]) == (0, 6)
    history = drift.history()
    assert history["window_seq"].tolist() == [5, 6], "all or none was written"
    assert history["event_timestamp"].diff().iloc[1] == timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"colour": "red"}, "colour: not declared in the view"),
        ({"status": None}, "status is missing"),
        ({"detector": ""}, "detector is empty"),
        ({"status": 2.0}, "status must be a whole number, not float"),
        ({"status": True}, "status must be a whole number, not bool"),
        ({"statistic": "much"}, "statistic must be a number, not str"),
        ({"statistic": float("nan")}, "statistic is nan; leave out what nobody knows"),
        ({"effect": float("inf")}, "effect is inf"),
        ({"event_timestamp": datetime(2026, 3, 1)}, "must be a time with a time zone"),
        ({"event_timestamp": "2026-03-01"}, "must be a time with a time zone"),
        ({"expires_us": to_us(START)}, "expires_us is not behind the end"),
        ({"created_timestamp": START}, "created_timestamp: not declared"),
    ],
)
def test_a_wrong_row_is_refused_with_its_field(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    drift = _opened(Place(tmp_path / "features"))
    with pytest.raises(DriftRowRefused, match=why):
        drift.rows.write(DRIFT_SIGNAL, [_signal(), _signal(2) | changes])
    assert drift.rows.read(DRIFT_SIGNAL, [KEY])[0].why == "never written"


def test_only_views_of_drift_are_written(tmp_path: Path) -> None:
    drift = _opened(Place(tmp_path / "features"))
    with pytest.raises(DriftRowRefused, match="write drift_signal or drift_state"):
        drift.rows.write("decisions", [])
    with pytest.raises(FeaturesNotReady):
        open_drift_rows(Place(tmp_path / "nowhere"), drift.clock)


class _Lost(ViewRows):
    def push(self, view: str, rows: Any) -> None:
        raise FeatureStoreUnavailable("gone")


def test_a_write_that_failed_is_repeated(drift: Drift) -> None:
    lost = DriftRows(_Lost(drift.store, drift.place), drift.place, drift.clock)
    with pytest.raises(FeatureStoreUnavailable):
        lost.write(DRIFT_SIGNAL, [_signal()])
    assert drift.rows.read(DRIFT_SIGNAL, [KEY])[0].why == "never written"
    assert drift.rows.write(DRIFT_SIGNAL, [_signal()]) == 0
    assert drift.rows.read(DRIFT_SIGNAL, [KEY])[0].status == 2
    assert len(drift.history()) == 1


def test_a_state_is_one_row_of_a_model_and_arm(drift: Drift) -> None:
    state = {
        "model_id": "m|champion",
        "max_status": 3,
        "action": "hold",
        "reason_code": "TEXT_DRIFT",
        "signals_total": 9,
        "signals_alarming": 1,
        "signals_unknown": 2,
        "window_seq": 1,
        "expires_us": to_us(START + 3 * HOUR),
        "event_timestamp": START + HOUR,
    }
    drift.rows.write(DRIFT_STATE, [state])
    [found] = drift.rows.read(DRIFT_STATE, ["m|champion"])
    assert found.row
    assert (found.status, found.row["action"], found.row["signals_unknown"]) == (3, "hold", 2)
