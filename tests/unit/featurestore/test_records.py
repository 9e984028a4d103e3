"""Decisions and truths become rows: once, at their own times, the newest online, whatever fails on the way."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureStore

from featurestore.definitions import DECISIONS, GROUND_TRUTH
from featurestore.layout import Place, history_folder
from featurestore.letters import Reason
from featurestore.records import RECORDS, RecordStream, decision_row, letters_of_records
from featurestore.repository import apply
from featurestore.view_rows import ViewRows
from ledger.events import Event, from_decision, from_ground_truth
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.decision import Attempt, PolicyScore, Versions
from moderation.errors import FeatureStoreUnavailable
from moderation.listing import GroundTruth, TruthSource
from tests.decided import a_decision
from tests.feature_events import START

HOUR = timedelta(hours=1)


@dataclass
class Followed:
    """A store, the ledger that it follows, and the stream between them."""

    place: Place
    store: FeatureStore
    ledger: SqliteLedger
    clock: SimulatedClock

    def __post_init__(self) -> None:
        self.rows = ViewRows(self.store, self.place)
        self.stream = self.anew()

    def anew(self, rows: ViewRows | None = None) -> RecordStream:
        letters = letters_of_records(self.place)
        return RecordStream(self.ledger, rows or self.rows, letters, self.clock)

    def truth(self, submission: str = "u1", policy: str = "p") -> dict[str, Any]:
        [found] = self.rows.newest(
            GROUND_TRUTH, [{"listing_id": submission, "policy_id": policy}], ["violates", "source"]
        )
        return found

    def history(self, view: str) -> pd.DataFrame:
        files = sorted(history_folder(self.place.folder, view).glob("*.parquet"))
        return pd.concat([pd.read_parquet(one) for one in files], ignore_index=True)


@pytest.fixture
def followed(either: Place, tmp_path: Path) -> Followed:
    ledger, clock = SqliteLedger(tmp_path / "ledger.sqlite"), SimulatedClock(START)
    return Followed(either, apply(either), ledger, clock)


def _decision(
    name: str = "u1", at: datetime = START, *, is_answered: bool = True, **fields: Any
) -> Event:
    scores = [
        PolicyScore(policy=policy, probability=p, worst_image=None, signals=())
        for policy, p in (("p", 0.2), ("q", 0.7))
    ]
    attempt = Attempt(
        role="answer",
        release="b" * 64,
        status="ok" if is_answered else "timeout",
        latency_ms=12.5,
        scores=tuple(scores) if is_answered else (),
        tier="review",
    )
    decision = a_decision(
        name,
        at,
        tier="review",
        attempts=(attempt,),
        versions=Versions(bundle="b" * 64 if is_answered else None, policy="1:abc"),
        degraded=("behaviour",),
    )
    return from_decision(decision, recorded_at=at + timedelta(seconds=1), seller_id="s1")


def _truth(
    known_at: datetime,
    *,
    violates: bool = True,
    policy: str = "p",
    recorded_at: datetime | None = None,
) -> Event:
    truth = GroundTruth(
        submission_id="u1",
        policy=policy,
        violates=violates,
        source=TruthSource.REVIEW,
        reviewed_at=known_at - HOUR,
        known_at=known_at,
    )
    return from_ground_truth(truth, recorded_at=recorded_at or known_at)


def test_a_decision_is_a_row_with_its_own_times(followed: Followed) -> None:
    followed.ledger.append([_decision(at=START - HOUR), _decision("u2", is_answered=False)])
    assert followed.stream.step().decisions == 2
    names = [
        "tier",
        "release",
        "latency_ms",
        "degraded",
        "top_policy",
        "top_probability",
        "seller_id",
    ]
    one, two = followed.rows.newest(DECISIONS, [{"listing_id": n} for n in ("u1", "u2")], names)
    assert [one[name] for name in names] == ["review", "b" * 64, 12.5, 1, "q", 0.7, "s1"]
    assert [two[name] for name in names] == ["review", "", None, 1, "", None, "s1"]
    history = followed.history(DECISIONS).set_index("listing_id")
    row = history.loc["u1"]
    assert row["event_timestamp"] == START - HOUR
    assert row["created_timestamp"] == START - HOUR + timedelta(seconds=1)
    assert history["top_probability"].isna()["u2"]


def test_a_correction_is_a_new_version_and_the_newest_wins(followed: Followed) -> None:
    followed.clock.move_to(START + 3 * HOUR)
    followed.ledger.append([_truth(START + HOUR), _truth(START + HOUR, policy="q")])
    followed.stream.step()
    followed.ledger.append([_truth(START + 2 * HOUR, violates=False)])
    followed.stream.step()
    assert (followed.truth()["violates"], followed.truth(policy="q")["violates"]) == (0, 1)
    late = _truth(START + HOUR / 2, recorded_at=START + 3 * HOUR)
    followed.ledger.append([late])
    followed.stream.step()
    assert followed.truth()["violates"] == 0, "what comes late is not what holds"
    history = followed.history(GROUND_TRUTH)
    assert len(history) == 4, "every version is history"
    asked = pd.DataFrame(
        {
            "listing_id": "u1",
            "policy_id": "p",
            "event_timestamp": pd.to_datetime(
                [START + HOUR / 2 + HOUR / 4, START + HOUR, START + 2 * HOUR], utc=True
            ).astype("datetime64[us, UTC]"),
        }
    )
    joined = followed.store.get_historical_features(
        asked, [f"{GROUND_TRUTH}:violates"], filter_by_created_timestamp=True
    ).to_df()
    found = joined.sort_values("event_timestamp")["violates"].tolist()
    assert pd.isna(found[0]), "the late one was not known then"
    assert found[1:] == [1, 0]


class _Breaking(ViewRows):
    """Loses the online store while `is_down`."""

    is_down = True

    def push(self, view: str, rows: Any) -> None:
        if self.is_down:
            raise FeatureStoreUnavailable("gone")
        super().push(view, rows)


def test_a_batch_that_was_cut_off_is_there_once(followed: Followed) -> None:
    followed.ledger.append([_decision(f"u{n}") for n in range(3)])
    breaking = _Breaking(followed.store, followed.place)
    stream = followed.anew(breaking)
    with pytest.raises(FeatureStoreUnavailable):
        stream.step()
    assert len(followed.history(DECISIONS)) == 3
    followed.ledger.append([_decision("u3")])
    breaking.is_down = False
    assert stream.step().decisions == 4
    assert sorted(followed.history(DECISIONS)["listing_id"]) == ["u0", "u1", "u2", "u3"]
    assert followed.anew().step().decisions == 0


def test_a_lost_online_store_is_filled_again_without_a_second_history(tmp_path: Path) -> None:
    place, ledger = Place(tmp_path / "features"), SqliteLedger(tmp_path / "ledger.sqlite")
    before = Followed(place, apply(place), ledger, SimulatedClock(START))
    ledger.append([_decision(), _truth(START)])
    before.stream.step()
    for file in place.folder.glob("online.sqlite*"):
        file.unlink()
    after = Followed(place, apply(place), ledger, before.clock)
    step = after.stream.step()
    assert (step.decisions, step.truths) == (0, 0)
    assert after.truth()["violates"] == 1
    assert after.rows.sequence(RECORDS) == ledger.last_sequence()
    assert len(after.history(DECISIONS)) == 1


def test_what_cannot_be_a_row_is_kept_aside_and_written_when_it_can(followed: Followed) -> None:
    broken = _decision("u1")
    payload = {name: value for name, value in broken.payload.items() if name != "tier"}
    future = _truth(START + 2 * HOUR, recorded_at=START)
    followed.ledger.append([replace(broken, payload=payload), future, _decision("u2")])
    step = followed.stream.step()
    assert (step.decisions, step.truths, step.refused) == (1, 0, 2)
    letters = letters_of_records(followed.place)
    assert letters.counts() == {Reason.SCHEMA: 1, Reason.FUTURE: 1}
    assert "tier: missing" in letters.waiting()[0].detail
    followed.clock.advance(2 * 3600)
    assert followed.stream.replay().truths == 1
    assert followed.truth()["violates"] == 1
    assert letters.counts() == {Reason.SCHEMA: 1}
    assert len(followed.history(GROUND_TRUTH)) == 1


def test_a_shadow_says_nothing_of_a_decision() -> None:
    event = _decision()
    attempts = event.payload["attempts"]
    shadow = {**attempts[0], "role": "shadow"}
    row = decision_row(replace(event, payload={**event.payload, "attempts": [shadow]}))
    assert (row["top_policy"], row["latency_ms"]) == ("", None)


def test_a_duplicate_has_a_score_and_no_latency() -> None:
    event = _decision()
    row = decision_row(replace(event, payload=event.payload | {"decided_by": "duplicate"}))
    assert (row["top_policy"], row["latency_ms"]) == ("q", None)


def test_a_decision_of_stage_1_is_a_row_without_a_release() -> None:
    event = _decision(is_answered=False)
    payload = event.payload | {"decided_by": "stage_1", "attempts": [], "tier": "block"}
    row = decision_row(replace(event, payload=payload))
    said = (row["tier"], row["release"], row["top_probability"], row["latency_ms"])
    assert said == ("block", "", None, None)
