"""The same declarations over Spark as offline store: its join of our Parquet history is DuckDB's.

Optional: needs pyspark, which no extra installs (half a gigabyte), and a Java runtime; no other test does.
"""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, RepoConfig

from featurestore.definitions import declare
from featurestore.layout import CREATED, EVENT_TIME, Place
from featurestore.quiet import quiet_feast
from featurestore.repository import apply, feast_config
from featurestore.view_rows import ViewRows
from tests.feature_events import START

DAY = timedelta(days=1)
pytest.importorskip("pyspark", reason="pyspark is not installed: pip install 'pyspark>=4,<5'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("java"), reason="no Java runtime is installed"),
    pytest.mark.filterwarnings("ignore"),  # Spark and its gateway warn of their own state
]


@pytest.fixture
def spark(tmp_path: Path) -> Iterator[tuple[Place, FeatureStore]]:
    """Give a store over Spark whose history another store wrote."""
    place = Place(tmp_path / "features")
    apply(place)
    options = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.session.timeZone": "UTC",
    }
    config = feast_config(place) | {
        "registry": {"path": str(tmp_path / "spark.db")},
        "online_store": {"type": "sqlite", "path": str(tmp_path / "spark.sqlite")},
        "offline_store": {"type": "spark", "spark_conf": options},
    }
    store = FeatureStore(config=RepoConfig(**config, repo_path=tmp_path))
    with quiet_feast():
        store.apply(declare(place.folder, is_spark=True))
    yield place, store
    from pyspark.sql import SparkSession

    if session := SparkSession.getActiveSession():
        session.stop()


def test_spark_joins_the_history_as_duckdb_does(spark: tuple[Place, FeatureStore]) -> None:
    place, over_spark = spark
    over_duckdb = apply(place)
    rows = ViewRows(over_duckdb, place)
    truth = {
        "policy_id": "p",
        "source": "review",
        "adjudicated": 0,
        "propensity": 0.5,
        "reviewed_us": 1,
    }
    decision = {"seller_id": "s1", "tier": "review", "latency_ms": 2.5, "degraded": 0}
    for day in range(4):
        at = START + day * DAY
        known = at + DAY if day == 2 else at
        times = {EVENT_TIME: at, CREATED: known}
        rows.append(
            "ground_truth", f"{day}", [{"listing_id": "u1", "violates": day, **truth, **times}]
        )
        probability = None if day == 1 else day / 4
        rows.append(
            "decisions",
            f"{day}",
            [{"listing_id": f"u{day}", "top_probability": probability, **decision, **times}],
        )
    instants = [START + n * DAY / 2 for n in range(-1, 9)]
    asked = pd.DataFrame(
        {
            "listing_id": [f"u{n % 3}" if n > 4 else "u1" for n in range(10)],
            "policy_id": "p",
            EVENT_TIME: pd.to_datetime(instants).astype("datetime64[us, UTC]"),
        }
    )
    names = ["violates", "propensity", "source"]
    wanted = [f"ground_truth:{name}" for name in names]
    wanted += ["decisions:top_probability", "decisions:tier"]
    found = []
    for store in (over_duckdb, over_spark):
        joined = store.get_historical_features(asked, wanted, filter_by_created_timestamp=True)
        frame = joined.to_df()
        frame[EVENT_TIME] = pd.to_datetime(frame[EVENT_TIME], utc=True).astype(
            "datetime64[us, UTC]"
        )
        frame = frame.sort_values(EVENT_TIME, ignore_index=True)
        found.append(frame[sorted(frame.columns)].astype(object).where(frame.notna(), None))
    assert len(found[0]) == 10
    assert found[0]["violates"].tolist()[:5] == [None, 0, 0, 1, 1]
    pd.testing.assert_frame_equal(found[0], found[1], check_dtype=False)


def test_both_offline_stores_get_the_same_declarations(tmp_path: Path) -> None:
    def described(is_spark: bool) -> dict[str, tuple[object, ...]]:
        return {
            one.name: (one.entities, one.features, one.ttl, one.tags)
            for one in declare(tmp_path, is_spark=is_spark)
            if isinstance(one, FeatureView)
        }

    assert described(True) == described(False)
