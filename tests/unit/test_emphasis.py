"""Emphasis: which kinds of rows attacks turned, how much more often they are drawn, what a snapshot keeps of it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from moderation.attacks.hard_examples import HardExample
from moderation.emphasis import MAX_EMPHASIS, Emphasis
from moderation.listing import Listing, Submission
from moderation.ngram import fit_ngram
from moderation.sampling import Teaching
from moderation.snapshot import Emphasise, Snapshot, SnapshotRow, SnapshotWriter
from moderation.text import ngram_texts

POLICIES = ("weapons", "spam")
START = datetime(2026, 3, 1, tzinfo=UTC)


def _example(number: int, truth: Literal[0, 1] = 1, policy: str = "weapons", **like: str) -> Any:
    return HardExample(
        submission_id=f"golden-{number}",
        policy=policy,
        truth=truth,
        bundle="a" * 64,
        attack="leet",
        family="text",
        severity=1.0,
        before=0.9,
        after=0.1,
        like=like,
    )


def _record(truth: list[int], language: str | None = "en", category: str | None = "toys") -> Any:
    return {"truth": truth, "language": language, "category": category}


def test_more_turned_listings_of_a_kind_draw_it_more_often() -> None:
    def factor(num: int) -> float:
        examples = [_example(n, language="en", category="toys") for n in range(num)]
        return Emphasis.of(examples * 2).of_row(_record([1, 0]), POLICIES)

    found = [factor(num) for num in (0, 1, 5, 10, 50)]
    assert found == pytest.approx([1.0, 1.2, 2.0, MAX_EMPHASIS, MAX_EMPHASIS])


@pytest.mark.parametrize(
    ("record", "is_alike"),
    [
        (_record([1, 0]), True),
        (_record([1, -1]), True),
        (_record([0, 1]), False),
        (_record([0, 0]), False),
        (_record([-1, -1]), False),
        (_record([1, 0], language="de"), False),
        (_record([1, 0], category=None), False),
    ],
)
def test_a_row_is_of_a_kind_by_truth_language_and_category(record: Any, is_alike: bool) -> None:
    emphasis = Emphasis.of([_example(1, language="en", category="toys", region="de", scene="x")])
    assert (emphasis.of_row(record, POLICIES) > 1) is is_alike


def test_innocents_of_a_kind_violate_nothing() -> None:
    emphasis = Emphasis.of([_example(1, 0, category="toys")])
    innocent, guilty = _record([0, -1], language=None), _record([0, 1], language=None)
    assert emphasis.of_row(innocent, POLICIES) > 1
    assert emphasis.of_row(guilty, POLICIES) == 1


def test_digest_is_empty_where_nothing_is_emphasised() -> None:
    one, two = (Emphasis.of([_example(n) for n in range(num)]) for num in (1, 2))
    assert Emphasis().digest == Emphasis.of([]).digest == ""
    assert one.digest != two.digest


def _snapshot(folder: Path, emphasise: Emphasise | None = None) -> Snapshot:
    writer = SnapshotWriter(folder, POLICIES, START + timedelta(days=99))
    for number in range(400):
        listing = Listing(listing_id=f"l{number}", seller_id=f"s{number}", title=f"thing {number}")
        at = START + timedelta(hours=number)
        submission = Submission(submission_id=f"u{number}", listing=listing, submitted_at=at)
        writer.add(SnapshotRow(submission, None, {"weapons": number % 3 == 0}))
    return writer.finish(emphasise=emphasise)


def test_only_train_rows_are_emphasised(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path, lambda record: 2.5)
    is_train_N = snapshot.role == "train"
    assert set(snapshot.emphasis[is_train_N]) == {2.5}
    assert set(snapshot.emphasis[~is_train_N]) == {1.0}
    assert {"tune", "meta", "solve", "test"} <= set(snapshot.role[~is_train_N])
    np.testing.assert_array_equal(snapshot.weight, _snapshot(tmp_path / "plain").weight)


def test_digest_of_a_snapshot_covers_emphasis(tmp_path: Path) -> None:
    plain = _snapshot(tmp_path / "plain")
    ones = _snapshot(tmp_path / "ones", lambda record: 1.0)
    more = _snapshot(
        tmp_path / "more", lambda record: 1.5 if record["submission_id"] == "u0" else 1.0
    )
    assert plain.digest == ones.digest != more.digest
    assert more.content_digest() == more.digest


def test_a_table_frozen_without_the_column_opens_as_it_did(tmp_path: Path) -> None:
    snapshot = _snapshot(tmp_path)
    path = tmp_path / "rows.parquet"
    older = pq.read_table(path).drop_columns(["emphasis", "served"])
    pq.write_table(older, path)
    assert snapshot.emphasis.tolist() == [1.0] * snapshot.num_rows
    assert snapshot.content_digest() == snapshot.digest
    assert json.loads((tmp_path / "snapshot.json").read_text())["digest"] == snapshot.digest


def test_training_reads_the_emphasis_of_its_snapshot(tmp_path: Path) -> None:
    taught = Teaching.of(_snapshot(tmp_path, lambda record: 2.0))
    assert taught.emphasis_N is not None
    assert set(taught.emphasis_N) == {1.0, 2.0}


def test_ngrams_learn_more_of_an_emphasised_kind() -> None:
    """The word of few emphasised violations counts for more; the base rate of the logits stays that of the weights."""
    titles = ["rare blade"] * 6 + ["common gun"] * 60 + ["rare lamp"] * 60 + ["common chair"] * 200
    truth_NP = np.array([[1]] * 66 + [[0]] * 260, np.int8)
    emphasis_N = np.where(np.arange(len(titles)) < 6, 3.0, 1.0)
    texts, weight_N = [ngram_texts(title, "") for title in titles], np.ones(len(titles))
    plain = fit_ngram(texts, truth_NP, weight_N, seed=1)
    more = fit_ngram(texts, truth_NP, weight_N, seed=1, emphasis_N=emphasis_N)
    assert more.logits(texts[:1])[0, 0] > plain.logits(texts[:1])[0, 0]
    ones = fit_ngram(texts, truth_NP, weight_N, seed=1, emphasis_N=np.ones(len(titles)))
    np.testing.assert_array_equal(ones.logits(texts), plain.logits(texts))
