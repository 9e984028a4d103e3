"""Feast's own monitoring, by its own command line, over the views that hold numbers and words."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

from featurestore.definitions import DECISIONS
from featurestore.layout import CREATED, EVENT_TIME, Place
from featurestore.profile import PROFILE, write_profiles
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from featurestore.view_rows import ViewRows
from featurestore.writer import letters_of
from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from tests.feature_events import START, upload

DAY = timedelta(days=1)
FEAST = Path(sys.executable).parent / "feast"


@pytest.mark.slow
def test_feasts_monitoring_profiles_our_views(tmp_path: Path) -> None:
    place = Place(tmp_path / "features")
    store, ledger = apply(place), SqliteLedger(tmp_path / "ledger.sqlite")
    uploads = [upload(f"u{n}", START + n * DAY / 4, seller_id=f"s{n % 3}") for n in range(12)]
    ledger.append([from_submission(one, recorded_at=one.submitted_at) for one in uploads])
    now = START + 4 * DAY
    FeatureStream(ledger, FeastSink(store, place), letters_of(place), SimulatedClock(now)).step()
    for day in (2, 3, 4):
        write_profiles(store, place, START + day * DAY, now)
    decisions = [
        {
            "listing_id": f"u{n}",
            "tier": "review" if n % 4 == 0 else "allow",
            "degraded": 0,
            "top_probability": None if n == 0 else n / 12,
            EVENT_TIME: START + n * DAY / 4,
            CREATED: START + n * DAY / 4,
        }
        for n in range(12)
    ]
    ViewRows(store, place).append(DECISIONS, "drawn", decisions)
    done = subprocess.run(
        [FEAST, "-f", place.config_file, "monitor", "run"],
        cwd=place.folder,  # Feast writes `feast_monitoring` into the current directory
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Failed to auto-compute" not in said, "Feast exits with 0 even then"
    assert "Unsupported dtype 'Bytes' for feature 'seller_row', skipping" in said
    kept = pd.read_parquet(
        place.folder / "feast_monitoring" / "feast_monitoring_feature_metrics.parquet"
    )
    found = {
        (one["feature_view_name"], one["feature_name"]): one
        for one in kept[kept["is_baseline"]].to_dict("records")
    }
    assert {name for view, name in found if view == PROFILE} == set(FEATURE_NAMES)
    counts = found[PROFILE, "submissions_30d"]
    assert (counts["row_count"], counts["null_rate"], counts["max_val"]) == (9, 0, 4)
    assert found[PROFILE, "price_log_ratio"]["null_rate"] == 1, "null is null, not NaN"
    probability = found[DECISIONS, "top_probability"]
    assert (probability["row_count"], probability["null_count"]) == (12, 1)
    assert probability["max_val"] == pytest.approx(11 / 12)
    assert found[DECISIONS, "tier"]["feature_type"] == "categorical"
