"""One empty feature store per test, on SQLite or on a Redis of its own, and a ledger whose events it reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from feast import FeatureStore

from featurestore.layout import Place
from featurestore.letters import DeadLetters
from featurestore.online import OnlineReader, open_rows
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from tests.feature_events import START


@pytest.fixture(params=["sqlite", "redis"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Give a place on each online store in turn."""
    url = request.getfixturevalue("own_redis")[0] if request.param == "redis" else None
    return Place(tmp_path / "features", url)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "features")


@pytest.fixture
def store(place: Place) -> FeatureStore:
    return apply(place)


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(START)


@pytest.fixture
def letters(place: Place) -> DeadLetters:
    return DeadLetters(place.folder / "stream.sqlite")


@pytest.fixture
def stream(
    store: FeatureStore,
    place: Place,
    ledger: SqliteLedger,
    letters: DeadLetters,
    clock: SimulatedClock,
) -> FeatureStream:
    return FeatureStream(ledger, FeastSink(store, place), letters, clock)


@pytest.fixture
def reader(store: FeatureStore, place: Place) -> Iterator[OnlineReader]:
    found = OnlineReader(open_rows(place, budget_s=1.0))
    yield found
    found.close()
