from datetime import UTC, datetime, timedelta

import pytest

from components.validate.rows_report import inspect_rows, refuse_unfit
from moderation.errors import InvalidSnapshot
from moderation.listing import Listing, Submission
from moderation.snapshot import SnapshotRow

START = datetime(2026, 3, 2, tzinfo=UTC)


def _row(number: int, *, violates: bool | None, images: tuple[str, ...] = ()) -> SnapshotRow:
    submission = Submission(
        submission_id=f"u{number}",
        listing=Listing(listing_id=f"l{number}", title="a title"),
        image_digests=images,
        submitted_at=START + timedelta(hours=number),
    )
    return SnapshotRow(submission, None, {} if violates is None else {"spam": violates})


def test_report_counts_truths_and_gaps() -> None:
    rows = [_row(1, violates=True), _row(2, violates=False), _row(3, violates=None)]
    metrics = inspect_rows(rows, lambda digest: True).metrics()
    assert metrics["rows"] == 3
    assert metrics["spam_positives"] == 1
    assert metrics["spam_negatives"] == 1
    assert metrics["missing_truth"] == 1
    assert metrics["missing_title"] == 0
    assert metrics["missing_price"] == 3
    assert metrics["missing_behaviour"] == 3
    assert metrics["missing_images"] == 3


def test_report_accepts_rows_that_can_train() -> None:
    report = inspect_rows([_row(1, violates=True), _row(2, violates=False)], lambda digest: True)
    refuse_unfit(report, ["spam"])
    assert "| spam_positives | 1 |" in report.markdown()


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no submission before the cut-off"),
        ([_row(1, violates=False)], "spam: no violation is known"),
        ([_row(1, violates=True)], "spam: no cleared listing is known"),
        (
            [_row(1, violates=True, images=("a" * 64,)), _row(2, violates=False)],
            "1 of 1 images are not in the content store",
        ),
    ],
)
def test_report_refuses_rows_that_cannot_train(rows: list[SnapshotRow], reason: str) -> None:
    report = inspect_rows(rows, lambda digest: False)
    with pytest.raises(InvalidSnapshot, match=reason):
        refuse_unfit(report, ["spam"])


def test_report_counts_repeated_ids_and_broken_order() -> None:
    rows = [_row(2, violates=True), _row(1, violates=False), _row(1, violates=False)]
    metrics = inspect_rows(rows, lambda digest: True).metrics()
    assert metrics["repeated_ids"] == 1
    assert metrics["out_of_time_order"] == 1
