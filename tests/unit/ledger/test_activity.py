from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from ledger.activity import LedgerBehaviour
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from moderation.features import FEATURE_NAMES
from moderation.listing import GroundTruth, Listing, Submission, TruthSource

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _submission(number: int, at: datetime) -> Submission:
    listing = Listing(listing_id=f"l{number}", seller_id="seller")
    return Submission(submission_id=f"s{number}", listing=listing, submitted_at=at)


def _truth(number: int, known_at: datetime) -> GroundTruth:
    return GroundTruth(
        submission_id=f"s{number}",
        policy="spam",
        violates=True,
        source=TruthSource.REVIEW,
        reviewed_at=NOON,
        known_at=known_at,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


def _read(reader: LedgerBehaviour, at: datetime) -> dict[str, float]:
    behaviour_F, _ = reader.features(_submission(99, at))
    return dict(zip(FEATURE_NAMES, behaviour_F.tolist(), strict=True))


def test_behaviour_follows_when_the_ledger_grows(ledger: SqliteLedger) -> None:
    reader = LedgerBehaviour(ledger)
    assert _read(reader, NOON)["submissions_24h"] == 0
    ledger.append([from_submission(_submission(1, NOON), recorded_at=NOON)])
    assert _read(reader, NOON + HOUR)["submissions_24h"] == 1
    _, newest = reader.features(_submission(99, NOON + HOUR))
    assert newest == NOON


def test_behaviour_waits_when_truth_is_not_known_yet(ledger: SqliteLedger) -> None:
    reader = LedgerBehaviour(ledger)
    ledger.append(
        [
            from_submission(_submission(1, NOON), recorded_at=NOON),
            from_ground_truth(_truth(1, NOON + 5 * HOUR), recorded_at=NOON),
        ]
    )
    assert _read(reader, NOON + 4 * HOUR)["violations_90d"] == 0
    assert _read(reader, NOON + 5 * HOUR)["violations_90d"] == 1


def test_behaviour_is_the_same_when_read_late_or_along(ledger: SqliteLedger) -> None:
    along = LedgerBehaviour(ledger)
    for number in range(6):
        at = NOON + number * HOUR
        along.catch_up(at)
        ledger.append([from_submission(_submission(number, at), recorded_at=at)])
    ledger.append([from_ground_truth(_truth(2, NOON + 3 * HOUR), recorded_at=NOON)])
    late = LedgerBehaviour(ledger)
    upload = _submission(99, NOON + 9 * HOUR)
    np.testing.assert_array_equal(along.features(upload)[0], late.features(upload)[0])


def test_behaviour_is_right_when_history_came_out_of_order(ledger: SqliteLedger) -> None:
    instants = [NOON + n * timedelta(days=10) for n in range(5)]
    ledger.append(
        from_submission(_submission(n, at), recorded_at=NOON)
        for n, at in reversed(list(enumerate(instants)))
    )
    values = _read(LedgerBehaviour(ledger), instants[-1] + HOUR)
    assert values["submissions_30d"] == 3
    assert values["seller_age_days"] == pytest.approx(40 + 1 / 24)
