from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.behaviour import known_behaviour, place_of
from components.home import Home
from components.ingest.rows import (
    Floats,
    data_version,
    newest_truth,
    open_rows,
    read_rows,
    write_rows,
)
from featurestore.history import ActivityRow, append_activity, behaviour_at
from ledger.events import (
    Event,
    from_appeal,
    from_decision,
    from_ground_truth,
    from_report,
    from_submission,
)
from ledger.ledger import SqliteLedger
from moderation.activity_rows import RowKind, SellerActivity
from moderation.decision import FeatureValue, SignalStatus
from moderation.features import FEATURE_NAMES
from moderation.listing import Appeal, GroundTruth, Listing, Report, Submission, TruthSource
from moderation.snapshot_rows import SnapshotRow
from tests.decided import a_decision

DAY = timedelta(days=1)
START = datetime(2026, 3, 2, 12, tzinfo=UTC)
CUT_OFF = START + 10 * DAY
POLICIES = ("weapons", "spam")


def _submission(number: int, at: datetime, seller: str | None = "s1") -> Event:
    listing = Listing(listing_id=f"l{number}", seller_id=seller, title=f"title {number}")
    submission = Submission(submission_id=f"u{number}", listing=listing, submitted_at=at)
    return from_submission(submission, recorded_at=at)


def _truth(
    number: int,
    *,
    known: datetime,
    violates: bool = True,
    policy: str = "weapons",
    source: TruthSource = TruthSource.REVIEW,
    **facts: Any,
) -> Event:
    truth = GroundTruth(
        submission_id=f"u{number}",
        policy=policy,
        violates=violates,
        source=source,
        reviewed_at=known - timedelta(hours=1),
        known_at=known,
        **facts,
    )
    return from_ground_truth(truth, recorded_at=known)


def _rows(ledger: SqliteLedger, policies: tuple[str, ...] = POLICIES) -> list[SnapshotRow]:
    """Return rows for tests of truth: nothing is known of any seller."""

    def unknown(uploads: Sequence[Submission]) -> Floats:
        return np.full((len(uploads), len(FEATURE_NAMES)), np.nan, np.float32)

    return list(read_rows(ledger, CUT_OFF, policies, unknown))


@pytest.fixture
def known_rows(ledger: SqliteLedger, tmp_path: Path) -> Callable[[], list[SnapshotRow]]:
    """Return rows with behaviour out of a feature store."""

    def read() -> list[SnapshotRow]:
        behaviour_at = known_behaviour(Home(tmp_path), ledger)
        return list(read_rows(ledger, CUT_OFF, POLICIES, behaviour_at))

    return read


@pytest.fixture
def ledger(tmp_path: Path) -> SqliteLedger:
    return SqliteLedger(tmp_path / "ledger.sqlite")


def _feature(row_behaviour: object, name: str) -> float:
    assert isinstance(row_behaviour, np.ndarray)
    return float(row_behaviour[FEATURE_NAMES.index(name)])


def test_rows_hold_truth_known_by_the_cut_off(ledger: SqliteLedger) -> None:
    ledger.append(
        [
            _submission(1, START),
            _submission(2, START + DAY),
            _truth(1, known=START + 2 * DAY),
            _truth(2, known=CUT_OFF + timedelta(microseconds=1)),
            _submission(3, CUT_OFF + DAY),
        ]
    )
    rows = _rows(ledger)
    assert [row.submission.submission_id for row in rows] == ["u1", "u2"]
    assert [dict(row.truth) for row in rows] == [{"weapons": True}, {}]


def test_rows_come_in_time_order_when_recorded_late(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START + DAY), _submission(2, START)])
    rows = _rows(ledger)
    assert [row.submission.submission_id for row in rows] == ["u2", "u1"]


def test_rows_ask_for_the_behaviour_of_no_upload_that_is_not_wanted(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START), _submission(2, START + DAY), _submission(3, START + DAY)])
    ledger.append([_truth(number, known=START + 2 * DAY) for number in (2, 3)])
    asked: list[str] = []

    def behaviour_at(uploads: Sequence[Submission]) -> Floats:
        asked.extend(one.submission_id for one in uploads)
        return np.zeros((len(uploads), len(FEATURE_NAMES)), np.float32)

    def is_wanted(submission: Submission, has_truth: bool) -> bool:
        return has_truth and submission.submission_id != "u3"

    rows = list(read_rows(ledger, CUT_OFF, POLICIES, behaviour_at, is_wanted))
    assert [row.submission.submission_id for row in rows] == asked == ["u2"]


def test_rows_see_only_what_was_known_at_submission(
    ledger: SqliteLedger, known_rows: Callable[[], list[SnapshotRow]]
) -> None:
    events = [
        _submission(1, START),
        _submission(2, START + DAY),
        _truth(1, known=START + 2 * DAY),
        _submission(3, START + 3 * DAY),
    ]
    # The order of recording does not matter: a truth that arrived later never reaches an earlier row.
    ledger.append([events[2], events[0], events[3], events[1]])
    rows = known_rows()
    counts = [_feature(row.behaviour_F, "violations_90d") for row in rows]
    assert counts == [0, 0, 1]


def test_rows_fold_reports_and_appeals(
    ledger: SqliteLedger, known_rows: Callable[[], list[SnapshotRow]]
) -> None:
    report = Report(report_id="r1", submission_id="u1", reported_at=START + DAY)
    appeal = Appeal(
        appeal_id="a1",
        submission_id="u1",
        opened_at=START + DAY,
        resolved_at=START + 2 * DAY,
        overturned=True,
    )
    ledger.append(
        [
            _submission(1, START),
            from_report(report, recorded_at=report.reported_at),
            from_appeal(appeal, recorded_at=START + 2 * DAY),
            _submission(2, START + 3 * DAY),
        ]
    )
    behaviour = known_rows()[1].behaviour_F
    assert _feature(behaviour, "reports_30d") == 1
    assert _feature(behaviour, "appeals_won_90d") == 1


def test_rows_prefer_an_appeal_to_a_review(ledger: SqliteLedger) -> None:
    ledger.append(
        [
            _submission(1, START),
            _truth(1, known=START + DAY, violates=False, source=TruthSource.APPEAL),
            _truth(1, known=START + 2 * DAY, violates=True),
        ]
    )
    row = _rows(ledger)[0]
    assert dict(row.truth) == {"weapons": False}


def test_rows_weigh_by_the_chance_of_any_review(ledger: SqliteLedger) -> None:
    ledger.append(
        [
            _submission(1, START),
            _truth(1, known=START + DAY, source=TruthSource.AUDIT, propensity=0.5),
            _truth(1, known=START + DAY, source=TruthSource.AUDIT, propensity=0.5, policy="spam"),
            _truth(1, known=START + 2 * DAY, source=TruthSource.REPORT, propensity=0.2),
        ]
    )
    row = _rows(ledger)[0]
    assert row.propensity == pytest.approx(1 - 0.5 * 0.8)


def test_rows_ignore_truth_of_unknown_policies(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START), _truth(1, known=START + DAY, policy="dairy")])
    assert dict(_rows(ledger)[0].truth) == {}


def test_rows_have_no_behaviour_when_there_is_no_seller(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START, seller=None)])
    assert _rows(ledger)[0].behaviour_F is None


def test_rows_survive_the_file(
    ledger: SqliteLedger, tmp_path: Path, known_rows: Callable[[], list[SnapshotRow]]
) -> None:
    ledger.append(
        [
            _submission(1, START),
            _submission(2, START, seller=None),
            _truth(1, known=START + DAY, propensity=0.25),
        ]
    )
    rows = known_rows()
    assert write_rows(iter(rows), tmp_path / "rows") == 2
    again = list(open_rows(tmp_path / "rows"))
    assert [row.submission for row in again] == [row.submission for row in rows]
    assert [dict(row.truth) for row in again] == [{"weapons": True}, {}]
    assert [row.propensity for row in again] == [0.25, 1.0]
    assert again[1].behaviour_F is None
    first, expected = again[0].behaviour_F, rows[0].behaviour_F
    assert first is not None
    assert expected is not None
    np.testing.assert_array_equal(first, expected)


def test_rows_tell_confirmed_truth_and_suspicion(ledger: SqliteLedger, tmp_path: Path) -> None:
    ledger.append(
        [
            _submission(1, START),
            _truth(1, known=START + DAY, violates=False, adjudicated=True),
            _truth(1, known=START + 2 * DAY, policy="spam"),
            _submission(2, START),
            _truth(2, known=START + DAY, source=TruthSource.AUDIT),
            _submission(3, START),
            _truth(3, known=START + DAY, adjudicated=True),
            _truth(3, known=START + 2 * DAY, violates=False, source=TruthSource.APPEAL),
        ]
    )
    write_rows(_rows(ledger), tmp_path / "rows")
    rows = list(open_rows(tmp_path / "rows"))
    assert [sorted(row.adjudicated) for row in rows] == [["weapons"], [], []]
    assert [row.is_suspected for row in rows] == [True, False, True]


def test_data_version_changes_with_what_is_visible(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START)])
    before = data_version(ledger, CUT_OFF)
    ledger.append([_submission(2, CUT_OFF + DAY)])
    assert data_version(ledger, CUT_OFF) == before
    assert data_version(ledger, CUT_OFF + 2 * DAY) != before
    ledger.append([_truth(1, known=START + DAY)])
    assert data_version(ledger, CUT_OFF) != before


def test_newest_truth_is_none_when_nothing_is_known(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START)])
    assert newest_truth(ledger) is None
    ledger.append([_truth(1, known=START + DAY)])
    assert newest_truth(ledger) == START + DAY


def _decision(number: int, at: datetime, values: dict[str, float | None]) -> Event:
    features = tuple(
        FeatureValue(
            name=name,
            value=value,
            status=SignalStatus.MISSING if value is None else SignalStatus.OK,
            event_time=None,
        )
        for name, value in values.items()
    )
    decision = a_decision(f"u{number}", at, features=features)
    return from_decision(decision, recorded_at=at, seller_id="s1")


def test_what_serving_used_stands_beside_what_is_known_now(
    ledger: SqliteLedger, tmp_path: Path, known_rows: Callable[[], list[SnapshotRow]]
) -> None:
    used = {"submissions_1h": 0.0, "seller_age_days": 7.5, "reports_30d": None}
    ledger.append(
        [
            _submission(1, START),
            _submission(2, START + timedelta(minutes=1)),
            _decision(2, START + timedelta(minutes=1), used),
        ]
    )
    write_rows(iter(known_rows()), tmp_path / "rows")
    first, second = open_rows(tmp_path / "rows")
    assert first.served_F is None
    assert _feature(second.served_F, "submissions_1h") == 0.0
    assert _feature(second.behaviour_F, "submissions_1h") == 1.0
    assert _feature(second.served_F, "seller_age_days") == 7.5
    assert np.isnan(_feature(second.served_F, "reports_30d"))


def test_a_duplicate_used_no_behaviour_of_its_own(ledger: SqliteLedger) -> None:
    event = _decision(1, START, {"submissions_1h": 3.0})
    earlier = {"decision_id": "d", "trace_id": "t", "submission_id": "u0"}
    again = {**event.payload, "decided_by": "duplicate", "duplicate_of": earlier}
    ledger.append([_submission(1, START), replace(event, payload=again)])
    assert _rows(ledger)[0].served_F is None


def test_a_decision_after_the_cut_off_is_not_seen(ledger: SqliteLedger) -> None:
    ledger.append([_submission(1, START), _decision(1, CUT_OFF + DAY, {"submissions_1h": 3.0})])
    assert _rows(ledger)[0].served_F is None


def test_a_leak_planted_in_the_history_reaches_no_row(
    ledger: SqliteLedger, tmp_path: Path, known_rows: Callable[[], list[SnapshotRow]]
) -> None:
    ledger.append([_submission(1, START), _submission(2, START + DAY)])
    before = known_rows()[1].behaviour_F
    place = place_of(Home(tmp_path))
    guilty = SellerActivity(0, 0)
    guilty.violations[int((START - datetime(1970, 1, 1, tzinfo=UTC)) / DAY)] = 9
    planted = ActivityRow(
        RowKind.SELLER, "s1", guilty.encode(), START + timedelta(hours=1), START + 2 * DAY
    )
    append_activity(place.folder, "planted", [planted])
    after = known_rows()[1].behaviour_F
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(after, before)
    [_, leaked] = behaviour_at(
        place.folder, [row.submission for row in known_rows()], is_known_only=False
    )
    assert _feature(leaked, "violations_90d") == 9
