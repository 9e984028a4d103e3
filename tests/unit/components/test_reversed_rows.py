"""What a reversal makes of the rows of a snapshot: it outranks the truth before it; no cut-off before it sees it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import data_version, newest_truth, read_rows
from ledger.events import Event, from_ground_truth, from_reversal, from_submission
from ledger.ledger import SqliteLedger
from moderation.features import FEATURE_NAMES
from moderation.listing import (
    GroundTruth,
    Listing,
    Reversal,
    ReversalReason,
    Submission,
    TruthSource,
)
from moderation.snapshot_rows import SnapshotRow

DAY = timedelta(days=1)
START = datetime(2026, 3, 2, 12, tzinfo=UTC)
CUT_OFF = START + 10 * DAY
POLICIES = ("weapons", "spam")


def _submission(number: int, at: datetime = START) -> Event:
    listing = Listing(listing_id=f"l{number}", seller_id="s1", title=f"title {number}")
    submission = Submission(submission_id=f"u{number}", listing=listing, submitted_at=at)
    return from_submission(submission, recorded_at=at)


def _truth(number: int, days: float, **facts: Any) -> Event:
    """Return a review that found a violation and was known at once."""
    at = START + days * DAY
    said = {"policy": "weapons", "violates": True, "source": TruthSource.REVIEW} | facts
    times = {"submission_id": f"u{number}", "reviewed_at": at, "known_at": at}
    return from_ground_truth(GroundTruth.model_validate(said | times), recorded_at=at)


def _reversal(
    number: int, days: float, policy: str | None = "weapons", known: datetime | None = None
) -> Event:
    at = START + days * DAY
    reversal = Reversal(
        reversal_id=f"r{number}-{policy}-{days}",
        submission_id=f"u{number}",
        policy=policy,
        reason=ReversalReason.APPEAL,
        reversed_at=at,
        known_at=known or at,
    )
    return from_reversal(reversal, recorded_at=reversal.known_at)


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


def _rows(ledger: SqliteLedger, home: Path, cut_off: datetime = CUT_OFF) -> list[SnapshotRow]:
    return list(read_rows(ledger, cut_off, POLICIES, known_behaviour(Home(home), ledger)))


def test_reversal_outranks_all_truth_before_it(ledger: SqliteLedger, tmp_path: Path) -> None:
    appeal: dict[str, Any] = {"source": TruthSource.APPEAL, "adjudicated": True}
    ledger.append(
        [
            _submission(1),
            _truth(1, 1, **appeal),
            _truth(1, 1, policy="spam", **appeal),
            _reversal(1, 2),
        ]
    )
    [row] = _rows(ledger, tmp_path)
    assert dict(row.truth) == {"spam": True, "weapons": False}
    assert row.adjudicated == {"spam", "weapons"}


def test_reversal_under_every_policy_clears_each(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append(
        [
            _submission(1),
            _truth(1, 1),
            _reversal(1, 2, policy=None),
            _submission(2, START + DAY / 2),
            _truth(2, 1),
            _reversal(2, 2, policy="dairy"),
        ]
    )
    cleared, other = _rows(ledger, tmp_path)
    assert dict(cleared.truth) == {"spam": False, "weapons": False}
    assert dict(other.truth) == {"weapons": True}, "a policy that nobody knows undoes nothing"
    assert not other.adjudicated


def test_truth_after_a_reversal_holds_again(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append(
        [
            _submission(1),
            _truth(1, 1, adjudicated=True),
            _truth(1, 3),
            _reversal(1, 2),
            _reversal(1, 1),
        ]
    )
    [row] = _rows(ledger, tmp_path)
    assert (dict(row.truth), row.adjudicated) == ({"weapons": True}, frozenset())


@pytest.mark.parametrize("known", [CUT_OFF, CUT_OFF + timedelta(microseconds=1)])
def test_reversal_reaches_a_snapshot_once_it_was_known(
    ledger: SqliteLedger, tmp_path: Path, known: datetime
) -> None:
    """A planted leak: a correction that was made before the cut-off, but was not known by then."""
    ledger.append([_submission(1), _truth(1, 1), _submission(2, START + 3 * DAY)])
    before = data_version(ledger, CUT_OFF)
    ledger.append([_reversal(1, 2, known=known)])
    is_known = known <= CUT_OFF
    first, second = _rows(ledger, tmp_path)
    assert dict(first.truth) == {"weapons": not is_known}
    assert first.is_suspected
    assert second.behaviour_F is not None
    violations = second.behaviour_F[FEATURE_NAMES.index("violations_90d")]
    assert violations == 1, "believed in at that upload"
    assert (data_version(ledger, CUT_OFF) != before) == is_known
    assert newest_truth(ledger) == known


def test_reversal_leaves_the_chance_of_a_review_alone(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append(
        [
            _submission(1),
            _truth(1, 1, source=TruthSource.AUDIT, propensity=0.25),
            _reversal(1, 2),
            _submission(2, START + DAY),
            _reversal(2, 2),
        ]
    )
    audited, unreviewed = _rows(ledger, tmp_path)
    assert (audited.propensity, unreviewed.propensity) == (0.25, 1.0)
    assert dict(unreviewed.truth) == {"weapons": False}
    assert audited.is_suspected
    assert unreviewed.is_suspected
