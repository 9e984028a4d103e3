"""Every check of the audit passes on a sound world and fails on one that is broken on purpose."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from marketplace.audit import unseen_precision
from marketplace.audit_checks import (
    check_erasure,
    check_features,
    check_needs_both,
    check_permuted,
    check_precision,
    check_skeletons,
    check_unseen,
    permute,
    weighted_auc,
)
from marketplace.audit_rows import AuditRows, Log, collect, fold, instant
from marketplace.config import WorldConfig
from moderation.listing import GroundTruth, Submission
from moderation.policy import load_policies

POLICIES = load_policies(Path(__file__).parents[3] / "policies" / "marketplace.yaml")
SOUND = {
    "keywords": [0.2],
    "image": [0.5],
    "text": [0.4],
    "words": [0.5],
    "ngram": [0.5],
    "behaviour": [0.1],
    "fusion": [0.7],
    "ensemble": [0.8],
    "oracle": [0.95],
}


@pytest.fixture(scope="module")
def rows() -> AuditRows:
    """A small world whose texts were embedded by noise, and in one direction by the truth."""
    config = WorldConfig(seed=3, days=20, violations_per_day=8, keep_ordinary=1 / 300)
    found = collect(config, POLICIES, None)
    rng = np.random.default_rng(0)
    text_ND = rng.standard_normal((len(found.truth_NP), 12)).astype(np.float32)
    text_ND[:, :3] += 2 * found.truth_NP
    return replace(found, text_ND=text_ND)


def swapped(rows: AuditRows, **changes: Any) -> AuditRows:
    return replace(rows, **changes)


def test_permuted_truth_gives_chance(rows: AuditRows) -> None:
    assert check_permuted(rows, permute(rows.known_NP, 1), seed=1).ok


def test_permuted_check_fails_when_truth_is_not_permuted(rows: AuditRows) -> None:
    assert not check_permuted(rows, [rows.known_NP], seed=1).ok


def test_feature_check_fails_when_a_feature_leaks(rows: AuditRows) -> None:
    leaking_NF = rows.behaviour_NF.copy()
    leaking_NF[:, 4] = rows.truth_NP[:, 0]
    behaviour, metadata = check_features(swapped(rows, behaviour_NF=leaking_NF))
    assert not behaviour.ok
    assert "categories_30d" in behaviour.check
    category = np.where(rows.truth_NP[:, 1] == 1, "fashion", "home")
    leaking = rows.metadata | {"category": category}
    assert not check_features(swapped(rows, metadata=leaking))[1].ok
    assert metadata.value < 1


def test_skeleton_check_fails_when_a_template_tells(rows: AuditRows) -> None:
    assert all(row.ok for row in check_skeletons(rows))
    told = ["told" if bad else "other" for bad in rows.truth_NP.max(axis=1)]
    weighted, kept = check_skeletons(swapped(rows, skeletons=told))
    assert not weighted.ok
    assert not kept.ok


@pytest.mark.parametrize("kind", ["asset", "template", "seller", "campaign"])
def test_unseen_check_fails_when_nothing_is_new(rows: AuditRows, kind: str) -> None:
    same = rows.slices | {kind: ["x"] * len(rows.skeletons)}
    checks = {row.check: row.ok for row in check_unseen(swapped(rows, slices=same))}
    assert not checks[f"share of test {kind}s unseen in training"]


def test_unseen_precision_parts_the_violations(rows: AuditRows) -> None:
    found = unseen_precision(rows, rows.truth_NP.astype(float))
    assert found["unseen seller"] == pytest.approx(1)
    same = rows.slices | {"seller": ["x"] * len(rows.skeletons)}
    found = unseen_precision(swapped(rows, slices=same), rows.truth_NP.astype(float))
    assert np.isnan(found["unseen seller"])
    assert found["seen seller"] == pytest.approx(1)


def test_features_stay_when_later_truth_is_erased(rows: AuditRows) -> None:
    assert check_erasure(rows.log, rows.behaviour_NF).ok


def test_erasure_check_fails_when_truth_is_read_early(rows: AuditRows) -> None:
    submitted = {
        entry.submission_id: entry.submitted_at
        for entry in rows.log
        if isinstance(entry, Submission)
    }

    def fold_leaking(log: Log) -> npt.NDArray[np.float32]:
        early = [
            entry.model_copy(update={"known_at": submitted[entry.submission_id]})
            if isinstance(entry, GroundTruth)
            else entry
            for entry in log
        ]
        return fold(sorted(early, key=instant))

    leaking_NF = fold_leaking(rows.log)
    assert not check_erasure(rows.log, leaking_NF, refold=fold_leaking).ok


def test_needs_both_check_fails_when_one_side_tells(rows: AuditRows) -> None:
    assert check_needs_both(rows).ok
    none = rows.slices | {"needs_both": [""] * len(rows.skeletons)}
    assert not check_needs_both(swapped(rows, slices=none)).ok


def test_precision_check_passes_when_in_every_band() -> None:
    assert all(row.ok for row in check_precision(SOUND))


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("keywords", 0.5),
        ("keywords", 0.01),
        ("image", 0.8),
        ("ensemble", 0.95),
        ("ensemble", 0.6),
        ("oracle", 0.7),
        ("image", 0.74),
    ],
)
def test_precision_check_fails_when_out_of_band(member: str, value: float) -> None:
    assert not all(row.ok for row in check_precision(SOUND | {member: [value]}))


def test_weighted_auc_is_half_when_all_scores_tie() -> None:
    truth_N = np.array([0, 1, 1, 0], np.int8)
    assert weighted_auc(truth_N, np.zeros(4), np.arange(1.0, 5.0)) == pytest.approx(0.5)
