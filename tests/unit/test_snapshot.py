"""Snapshots: what enters, with which weight and role, and a digest that follows the content."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from moderation.errors import InvalidSnapshot
from moderation.features import FEATURES
from moderation.listing import Listing, Submission
from moderation.snapshot import (
    MATURITY,
    Snapshot,
    SnapshotRow,
    SnapshotWriter,
    StagedRows,
    missing_evidence,
)

START = datetime(2026, 3, 1, tzinfo=UTC)
POLICIES = ("weapons", "spam")


def _row(number: int, truth: dict[str, bool], **fields: Any) -> SnapshotRow:
    listing = Listing(
        listing_id=f"l{number}", seller_id=f"s{number}", title=f"thing {number}", price=2.5
    )
    submission = Submission(
        submission_id=f"u{number}",
        listing=listing.model_copy(update=fields.pop("listing", {})),
        submitted_at=START + timedelta(hours=number),
        inclusion_probability=fields.pop("inclusion", 1.0),
        attributes=fields.pop("attributes", {}),
    )
    return SnapshotRow(submission, fields.pop("behaviour", None), truth, **fields)


def _write(folder: Path, rows: list[SnapshotRow]) -> Snapshot:
    writer = SnapshotWriter(folder, POLICIES, START + timedelta(days=99))
    for row in rows:
        writer.add(row)
    return writer.finish()


def test_unknown_truth_is_left_out_not_negative(tmp_path: Path) -> None:
    rows = [_row(n, {"weapons": n % 2 == 0} if n % 5 else {}) for n in range(50)]
    snapshot = _write(tmp_path, rows)
    assert snapshot.num_rows == 40
    assert snapshot.counts["unknown_truth"] == 10
    assert set(snapshot.truth_NP()[:, 1].tolist()) == {-1}


def test_rows_too_new_for_their_truth_are_left_out(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, POLICIES, START + timedelta(hours=99) + MATURITY)
    for number in range(120):
        writer.add(_row(number, {"spam": number % 3 == 0}))
    snapshot = writer.finish()
    assert snapshot.counts["immature"] == 20
    assert "u99" in snapshot.column("submission_id").tolist()


def test_weight_is_inverse_inclusion_probability(tmp_path: Path) -> None:
    rows = [_row(n, {"spam": False}, inclusion=0.1, propensity=0.5) for n in range(10)]
    assert _write(tmp_path, rows).weight.tolist() == pytest.approx([20.0] * 10)


def test_adjudicated_truth_is_told_by_policy(tmp_path: Path) -> None:
    rows = [
        _row(0, {"weapons": True, "spam": False}, adjudicated=frozenset({"spam"})),
        _row(1, {"weapons": True}),
    ]
    snapshot = _write(tmp_path, rows)
    assert snapshot.adjudicated_NP().tolist() == [[False, True], [False, False]]


def test_barred_rows_leave_with_their_reason(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, POLICIES, START + timedelta(days=99))
    for number in range(40):
        writer.add(_row(number, {"spam": number % 2 == 0}))

    def bar(rows: StagedRows) -> npt.NDArray[np.str_]:
        return np.array(["seller" if one in ("u3", "u4") else "" for one in rows.submission_ids])

    snapshot = writer.finish(bar)
    assert snapshot.num_rows == 38
    assert (snapshot.counts["quarantined"], snapshot.counts["quarantined_seller"]) == (2, 2)
    assert (snapshot.counts["copies"], snapshot.counts["purged"]) == (0, 0)
    assert snapshot.weight.sum() == pytest.approx(40), "their weight goes to the rows like them"


def test_snapshot_is_refused_when_every_row_is_barred(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path, POLICIES, START + timedelta(days=99))
    writer.add(_row(0, {"spam": True}))
    with pytest.raises(InvalidSnapshot, match="every row is barred"):
        writer.finish(lambda rows: np.array(["golden"] * len(rows.submission_ids)))


def test_altered_rows_have_another_digest(tmp_path: Path) -> None:
    snapshot = _write(tmp_path / "a", [_row(n, {"spam": n % 2 == 0}) for n in range(20)])
    assert snapshot.content_digest() == snapshot.digest
    other = _write(tmp_path / "b", [_row(n, {"spam": n % 3 == 0}) for n in range(20)])
    (tmp_path / "b" / "rows.parquet").replace(tmp_path / "a" / "rows.parquet")
    assert snapshot.content_digest() == other.digest


def test_behaviour_keeps_gaps_and_absence_apart(tmp_path: Path) -> None:
    partly = np.arange(len(FEATURES), dtype=np.float32)
    partly[3] = np.nan
    snapshot = _write(
        tmp_path, [_row(0, {"spam": True}, behaviour=partly), _row(1, {"spam": True})]
    )
    behaviour_NF = snapshot.behaviour_NF()
    assert np.isnan(behaviour_NF[0]).tolist() == [i == 3 for i in range(len(FEATURES))]
    assert np.isnan(behaviour_NF[1]).all()


def test_copies_of_test_images_leave_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.integers(0, 2**63, 4).astype(np.uint64) for _ in range(100)]
    hashes[3] = hashes[95]
    rows = [_row(n, {"spam": n % 3 == 0}, image_hashes=[hashes[n]]) for n in range(100)]
    rows = [
        SnapshotRow(
            row.submission.model_copy(update={"image_digests": ("a" * 64,)}),
            row.behaviour_F,
            row.truth,
            row.propensity,
            row.image_hashes,
        )
        for row in rows
    ]
    snapshot = _write(tmp_path, rows)
    assert snapshot.counts["copies"] == 1
    assert "u3" not in snapshot.column("submission_id").tolist()
    assert "u95" in snapshot.column("submission_id").tolist()


def test_declared_split_is_kept(tmp_path: Path) -> None:
    rows = [
        _row(n, {"spam": n % 4 == 0}, attributes={"split": "test" if n % 2 else "train"})
        for n in range(40)
    ]
    snapshot = _write(tmp_path, rows)
    assert snapshot.mode == "declared"
    assert [role == "test" for role in snapshot.role] == [n % 2 == 1 for n in range(40)]
    assert (snapshot.fold[snapshot.role == "train"] >= 0).all()


def test_rows_without_times_are_split_by_group(tmp_path: Path) -> None:
    rows = [_row(n, {"spam": n % 4 == 0}, attributes={"time": "unknown"}) for n in range(100)]
    snapshot = _write(tmp_path, rows)
    assert snapshot.mode == "declared"
    assert 5 < (snapshot.role == "test").sum() < 40


def test_seen_sellers_are_marked_in_test(tmp_path: Path) -> None:
    rows = [_row(n, {"spam": n % 4 == 0}, listing={"seller_id": f"s{n % 60}"}) for n in range(100)]
    snapshot = _write(tmp_path, rows)
    marks = [a.get("seller_seen") for a in snapshot.attributes()]
    is_test = snapshot.role == "test"
    assert {mark for mark, test in zip(marks, is_test, strict=True) if test} == {"seen"}
    assert {mark for mark, test in zip(marks, is_test, strict=True) if not test} == {None}


def test_digest_follows_content_alone(tmp_path: Path) -> None:
    rows = [_row(n, {"spam": n % 3 == 0}) for n in range(30)]
    first, second = _write(tmp_path / "a", rows), _write(tmp_path / "b", rows)
    rows[4] = _row(4, {"spam": True})
    third = _write(tmp_path / "c", rows)
    assert first.digest == second.digest != third.digest


def test_batches_stream_every_row_once(tmp_path: Path) -> None:
    snapshot = _write(tmp_path, [_row(n, {"spam": n % 3 == 0}) for n in range(30)])
    seen = [
        value
        for batch in snapshot.batches(["submission_id"], size=7)
        for value in batch["submission_id"].to_pylist()
    ]
    assert seen == snapshot.column("submission_id").tolist()


def test_no_truth_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="no row has a known truth"):
        _write(tmp_path, [_row(1, {})])


def test_truth_of_a_strange_policy_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="policy file lacks"):
        _write(tmp_path, [_row(1, {"drugs": True})])


def test_opening_an_unfinished_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSnapshot, match="no finished snapshot"):
        Snapshot.open(tmp_path)


def test_opening_other_features_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path, [_row(n, {"spam": n % 3 == 0}) for n in range(30)])
    manifest = json.loads((tmp_path / "snapshot.json").read_text())
    (tmp_path / "snapshot.json").write_text(json.dumps(manifest | {"features": ["x"]}))
    with pytest.raises(InvalidSnapshot, match="other behaviour features"):
        Snapshot.open(tmp_path)


def test_missing_evidence_names_policy_and_need(tmp_path: Path) -> None:
    snapshot = _write(tmp_path, [_row(n, {"spam": n % 3 == 0}) for n in range(60)])
    problems = missing_evidence(snapshot, min_train=10, min_test=4, min_negatives=30)
    assert problems == [
        "weapons: 0 positives in train, 10 are needed",
        "weapons: 0 positives in test, 4 are needed",
        "weapons: 0 weighted negatives, 30 are needed",
    ]
