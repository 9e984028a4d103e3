"""The skew check on real decisions: nothing where serving is right, and each fault by its name where it is not."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.behaviour import place_of
from components.home import Home
from components.skew import step
from featurestore.online import OnlineReader, open_rows
from featurestore.skew import FeatureSkew, Used, compare
from featurestore.writer import catch_up
from ledger.events import Event, from_decision, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission
from serving.gateway.behaviour import Behaviour
from tests.decided import a_decision
from tests.feature_events import START, upload

MINUTE = timedelta(minutes=1)
TOMORROW = f"{START + timedelta(days=1):%Y-%m-%d}"


class Shop:
    """A marketplace whose gateway reads the online store, upload by upload."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)
        self.ledger = SqliteLedger(self.home.ledger)
        self.clock = SimulatedClock(START)
        self.stream()
        self._reader = OnlineReader(open_rows(place_of(self.home), budget_s=1.0))

    def stream(self) -> None:
        """Bring the store up to date."""
        catch_up(place_of(self.home), self.ledger, self.clock)

    def decide(
        self,
        name: str,
        change: Callable[[dict[str, Any]], None] = lambda features: None,
        decision: Callable[[dict[str, Any]], None] = lambda decision: None,
        submission: Submission | None = None,
    ) -> str:
        """Decide about an upload as a gateway does; return the trace id."""
        self.clock.move_to(self.clock.now() + MINUTE)
        submission = submission or _priced(name, self.clock.now())
        behaviour = Behaviour.of(self._reader.read(submission))
        self.ledger.append([from_submission(submission, recorded_at=self.clock.now())])
        event = _decision(submission, behaviour, self.clock.now())
        used = {one["name"]: one for one in event.payload["features"]}
        change(used)
        decision(event.payload)
        self.ledger.append([event])
        return str(event.payload["trace_id"])

    def skew(self) -> dict[str, FeatureSkew]:
        """Return the report of the day by feature."""
        return {one.feature: one for one in step.run(str(self.home.folder), TOMORROW).rows}


def _priced(name: str, at: datetime) -> Submission:
    price = 10.0 + int(name.removeprefix("u"))
    return upload(name, at, price=price, currency="EUR", category="toys")


def _decision(submission: Submission, behaviour: Behaviour, decided_at: datetime) -> Event:
    decision = a_decision(
        submission.submission_id,
        submission.submitted_at,
        features=behaviour.feature_values(),
        features_through=behaviour.through,
        degraded=behaviour.degraded,
        decided_at=decided_at,
    )
    return from_decision(decision, recorded_at=submission.submitted_at, seller_id="s1")


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_nothing_differs_where_the_stream_keeps_up(shop: Shop) -> None:
    for number in range(4):
        shop.decide(f"u{number}")
        shop.stream()
    rows = shop.skew()
    assert list(rows) == list(FEATURE_NAMES)
    assert {one.equal for one in rows.values()} == {4}
    assert not any(one.differing or one.lagging or one.unread for one in rows.values())


def test_a_duplicate_is_not_compared(shop: Shop) -> None:
    def repeated(decision: dict[str, Any]) -> None:
        earlier = {"decision_id": "d-u0", "trace_id": "t-u0", "submission_id": "u0"}
        decision |= {"decided_by": "duplicate", "duplicate_of": earlier}

    shop.decide("u0")
    shop.stream()
    shop.decide("u1", lambda features: features["submissions_1h"].update(value=0.0), repeated)
    row = shop.skew()["submissions_1h"]
    assert (row.equal, row.lagging, row.differing) == (1, 0, 0)


def test_a_stream_that_lags_is_told_from_skew(shop: Shop) -> None:
    shop.decide("u0")
    shop.stream()
    shop.decide("u1")
    shop.decide("u2")  # the stream has not seen u1
    row = shop.skew()["submissions_1h"]
    assert (row.equal, row.lagging, row.differing) == (2, 1, 0)
    page = step.run(str(shop.home.folder), TOMORROW)
    assert page.lag.largest_s == 120
    assert "60.0 s behind in the median, 120.0 s at most" in page.markdown


def test_rows_newer_than_the_stream_says_are_told_from_skew(shop: Shop) -> None:
    """A stream writes its rows first, and then how far it has come; a decision may read in between."""
    shop.decide("u0")
    shop.stream()
    shop.decide("u1")
    shop.stream()
    before = shop.clock.now() - 2 * MINUTE

    def behind(decision: dict[str, Any]) -> None:
        decision["features_through"] = before.isoformat()

    shop.decide("u2")
    shop.decide("u3", decision=behind)  # it has read u1, and the stream said u0; u2 has not come
    row = shop.skew()["submissions_1h"]
    assert (row.equal, row.lagging, row.differing) == (3, 1, 0)


def test_rows_that_came_while_a_decision_was_made_are_told_from_skew(shop: Shop) -> None:
    for number in range(6):
        shop.decide(f"u{number}")
    shop.stream()

    def began_earlier(decision: dict[str, Any]) -> None:
        decision["features_through"] = (START + MINUTE).isoformat()

    asked = _priced("u6", START + 2.5 * MINUTE)  # it has read the prices of all six
    shop.decide("u6", decision=began_earlier, submission=asked)
    row = shop.skew()["price_log_ratio"]
    assert (row.lagging, row.differing) == (1, 0)


def test_a_value_that_was_never_true_is_found_with_its_trace(shop: Shop) -> None:
    shop.decide("u0")
    shop.stream()

    def wrong(features: dict[str, Any]) -> None:
        features["submissions_1h"]["value"] = 7.0
        features["reports_30d"] |= {"value": None, "status": "missing"}
        features["sellers_on_device_30d"] |= {"value": 0.5, "status": "ok"}

    trace = shop.decide("u1", wrong)
    rows = shop.skew()
    one = rows["submissions_1h"]
    assert (one.skewed, one.largest, one.examples) == (1, 6.0, (trace,))
    assert rows["reports_30d"].missing_in_serving == 1
    assert rows["sellers_on_device_30d"].missing_in_history == 1
    assert rows["submissions_24h"].differing == 0


def test_what_could_not_be_read_is_no_skew(shop: Shop) -> None:
    def failed(features: dict[str, Any]) -> None:
        for one in features.values():
            one |= {"value": None, "status": "error"}

    shop.decide("u0", failed)
    assert {one.unread for one in shop.skew().values()} == {1}


def test_only_the_decisions_of_the_day_are_compared(shop: Shop, tmp_path: Path) -> None:
    shop.decide("u0")
    after = f"{START + timedelta(days=2):%Y-%m-%d}"
    done = step.run(str(shop.home.folder), after, report=str(tmp_path / "record.json"))
    assert done.num_decisions == 0
    assert "Nothing was decided" in done.markdown
    assert json.loads((tmp_path / "record.json").read_text())["decisions"] == 0


def test_the_page_says_what_differs_first(shop: Shop) -> None:
    def wrong(features: dict[str, Any]) -> None:
        features["submissions_24h"]["value"] = 7.0

    trace = shop.decide("u0", wrong)
    page = step.run(str(shop.home.folder), TOMORROW).markdown
    assert "Of 16 values 15 are what was known, 0 lag behind the stream" in page
    assert "**1 differ**" in page
    first = page.splitlines()[6]
    assert first.startswith("| submissions_24h |")
    assert trace in first


def test_every_decision_is_counted_once() -> None:
    rng = np.random.default_rng(3)
    values = np.array([np.nan, 0.0, 1.0], np.float32)
    used_NF, known_NF, lagging_NF = rng.choice(values, (3, 400, len(FEATURE_NAMES)))
    faulty_NF = rng.random(used_NF.shape) < 0.1
    used = [
        Used(f"t{n}", upload(f"u{n}", START), used_NF[n], faulty_NF[n], None, START)
        for n in range(400)
    ]
    for one in compare(used, known_NF, lagging_NF):
        assert one.equal + one.lagging + one.unread + one.differing == 400
        assert one.largest == 1.0
