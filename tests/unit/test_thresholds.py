"""Solved thresholds: exact sample sizes, honest bounds under groups and weights, and their file."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose

from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.policy import Policy, TierBound, TierBounds
from moderation.precision import bound_precision, clopper_pearson_lower, flags_needed
from moderation.thresholds import (
    SolvedThresholds,
    load_solved,
    read_thresholds,
    save_thresholds,
    solve_thresholds,
)

Floats = npt.NDArray[np.float64]

POLICY = Policy(
    id="weapons",
    title="Weapons",
    reason_code="WEAPONS_PROHIBITED",
    seller_message="No.",
    tiers=TierBounds(
        tag=TierBound(precision=0.05),
        review=TierBound(precision=0.20, max_share=0.02),
        block=TierBound(precision=0.95),
        suspend=TierBound(precision=0.99),
    ),
)


def _solve(
    probability_N: Floats,
    truth_N: npt.NDArray[np.int8],
    weight_N: Floats | None = None,
    group_N: npt.NDArray[np.int64] | None = None,
) -> SolvedThresholds:
    num = len(truth_N)
    weight_N = np.ones(num) if weight_N is None else weight_N
    group_N = np.arange(num) if group_N is None else group_N
    return solve_thresholds(probability_N, truth_N, weight_N, group_N, POLICY, 0.95)


def _sure(num_flags: int, num_errors: int = 0) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Return `num_flags` rows of high score, the errors among them lowest, and 1,000 clear negatives."""
    high = np.linspace(0.9999, 0.999, num_flags)
    probability_N = np.concatenate([high, np.linspace(0.01, 0.001, 1_000)])
    truth_N = np.zeros(num_flags + 1_000, np.int8)
    truth_N[: num_flags - num_errors] = 1
    return probability_N, truth_N


@pytest.mark.parametrize(("bound", "num"), [(0.99, 299), (0.95, 59)])
def test_flags_needed_is_exact_without_errors(bound: float, num: int) -> None:
    assert flags_needed(bound, 0.95) == num
    assert clopper_pearson_lower(num - 1, num - 1, 0.95) < bound


def test_flags_needed_is_exact_with_one_error() -> None:
    assert flags_needed(0.99, 0.95, errors=1) == 473


@pytest.mark.parametrize(("tier", "fewest"), [("suspend", 299), ("block", 59)])
def test_tier_opens_at_the_fewest_flags(tier: str, fewest: int) -> None:
    evidence = _solve(*_sure(fewest)).tiers[tier]
    assert (evidence.status, evidence.flags, evidence.errors) == ("certified", fewest, 0)
    assert evidence.lower_bound >= evidence.bound


@pytest.mark.parametrize(("tier", "fewest"), [("suspend", 299), ("block", 59)])
def test_tier_stays_closed_when_one_flag_is_missing(tier: str, fewest: int) -> None:
    solved = _solve(*_sure(fewest - 1))
    assert solved.tiers[tier].status == "closed"
    assert tier not in solved.open


def test_closed_tier_says_how_many_flags_it_takes() -> None:
    probability_N, truth_N = _sure(200)
    evidence = _solve(probability_N[:200], truth_N[:200]).tiers["suspend"]
    assert (evidence.status, evidence.needed) == ("closed", 299)
    few = _solve(probability_N[:210], truth_N[:210]).tiers["block"]
    assert few.status == "certified"


def test_closed_tier_says_when_no_number_would_do() -> None:
    rng = np.random.default_rng(2)
    truth_N = (rng.random(2_000) < 0.5).astype(np.int8)
    evidence = _solve(rng.random(2_000), truth_N).tiers["block"]
    assert evidence.needed is None
    assert "below the bound" in evidence.reason


def test_enforced_share_is_that_of_the_weakest_open_tier() -> None:
    both, block = _solve(*_sure(299)), _solve(*_sure(59))
    assert both.enforced_share == both.tiers["block"].share >= both.tiers["suspend"].share > 0
    assert block.enforced_share == pytest.approx(59 / 1_059)
    assert _solve(*_sure(58)).enforced_share == 0.0, "closed tiers take nothing"


def test_review_falls_back_to_its_share_of_traffic() -> None:
    rng = np.random.default_rng(3)
    truth_N = (rng.random(5_000) < 0.01).astype(np.int8)
    weight_N = rng.choice([1.0, 10.0], 5_000)
    probability_N = rng.random(5_000)
    evidence = _solve(probability_N, truth_N, weight_N).tiers["review"]
    assert evidence.status == "by_share"
    assert evidence.threshold is not None
    share = weight_N[probability_N >= evidence.threshold].sum() / weight_N.sum()
    assert share == pytest.approx(evidence.share)
    assert 0.019 < share <= 0.02


def test_review_stays_closed_when_all_scores_are_equal() -> None:
    evidence = _solve(np.full(1_000, 0.01), np.zeros(1_000, np.int8)).tiers["review"]
    assert evidence.status == "closed"
    assert "takes more than" in evidence.reason


def test_unknown_truth_counts_as_traffic_only() -> None:
    probability_N, truth_N = _sure(59)
    unknown_N = np.full(400, -1, np.int8)
    padded = _solve(np.append(probability_N, np.full(400, 0.9995)), np.append(truth_N, unknown_N))
    evidence = padded.tiers["block"]
    assert (evidence.status, evidence.flags) == ("certified", 59)
    assert evidence.share == pytest.approx(459 / 1_459)


def test_thresholds_rise_with_the_tier() -> None:
    rng = np.random.default_rng(4)
    log_odds_N = rng.normal(-2, 5, 8_000)
    probability_N = 1 / (1 + np.exp(-log_odds_N))
    truth_N = (rng.random(8_000) < probability_N).astype(np.int8)
    limits = list(_solve(probability_N, truth_N).open.values())
    assert len(limits) >= 3
    assert limits == sorted(limits)


def test_equal_scores_are_never_parted() -> None:
    probability_N, truth_N = _sure(100)
    probability_N[:100] = 0.999
    evidence = _solve(probability_N, truth_N).tiers["block"]
    assert (evidence.threshold, evidence.flags) == (0.999, 100)


def test_heavy_negatives_keep_a_tier_closed() -> None:
    probability_N, truth_N = _sure(299)
    weight_N = np.where(truth_N == 1, 1.0, 20.0)
    evidence = _solve(probability_N, truth_N, weight_N).tiers["suspend"]
    assert evidence.status == "closed"  # each false flag would have stood for twenty
    assert evidence.effective_n == pytest.approx(299 / 20, rel=0.1)


def test_solving_refuses_a_probability_that_is_no_number() -> None:
    with pytest.raises(InvalidSnapshot, match="weapons"):
        _solve(np.array([0.5, np.nan]), np.array([1, 0], np.int8))


def test_effective_number_is_that_of_rows_when_independent() -> None:
    truth_R = np.ones(300, np.int8)
    truth_R[:9] = 0
    found = bound_precision(
        truth_R, np.ones(300), np.arange(300), confidence=0.95, error_weight=1.0
    )
    assert found.effective_n == pytest.approx(300, rel=1e-6)
    assert found.lower == pytest.approx(clopper_pearson_lower(291, 300, 0.95))


def test_effective_number_is_that_of_groups_without_errors() -> None:
    group_R = np.repeat(np.arange(30), 20)
    found = bound_precision(
        np.ones(600, np.int8), np.ones(600), group_R, confidence=0.95, error_weight=1.0
    )
    assert found.effective_n == pytest.approx(30, rel=0.1)


def test_bound_does_not_depend_on_the_scale_of_weights() -> None:
    rng = np.random.default_rng(6)
    truth_R = (rng.random(200) < 0.95).astype(np.int8)
    weight_R, group_R = rng.uniform(1, 5, 200), rng.integers(0, 90, 200)
    bounds = [
        bound_precision(
            truth_R, weight_R * scale, group_R, confidence=0.95, error_weight=3.0 * scale
        ).lower
        for scale in (1.0, 1_000.0)
    ]
    assert_allclose(bounds[0], bounds[1], rtol=1e-9)


def _campaigns(
    rng: np.random.Generator, sizes: npt.NDArray[np.int64], precision: float, correlation: float
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Return truth and groups of flags whose rows are right together (intra-class correlation)."""
    spread = (1 - correlation) / correlation if correlation else 1e9
    chance_G = rng.beta(precision * spread + 1e-9, (1 - precision) * spread + 1e-9, len(sizes))
    group_R = np.repeat(np.arange(len(sizes)), sizes)
    return (rng.random(len(group_R)) < chance_G[group_R]).astype(np.int8), group_R


_MIXED = np.array([1] * 300 + [20] * 15)
_ALIKE = np.full(30, 20)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.98])
@pytest.mark.parametrize("sizes", [_ALIKE, _MIXED, np.full(100, 20)], ids=["30", "mixed", "100"])
def test_bound_rarely_passes_a_bad_model_in_campaigns(
    correlation: float, sizes: npt.NDArray[np.int64]
) -> None:
    rng = np.random.default_rng(17)
    ours = independent = 0
    for _ in range(300):
        truth_R, group_R = _campaigns(rng, sizes, 0.94, correlation)
        weight_R = np.ones(len(truth_R))
        found = bound_precision(truth_R, weight_R, group_R, confidence=0.95, error_weight=1.0)
        ours += found.lower >= 0.95
        right = int(truth_R.sum())
        independent += clopper_pearson_lower(right, len(truth_R), 0.95) >= 0.95
    assert ours / 300 <= 0.06
    if correlation >= 0.5:
        assert independent / 300 > 0.1  # what the groups are for


def test_bound_still_certifies_a_good_model() -> None:
    rng = np.random.default_rng(18)
    passed = 0
    for _ in range(200):
        truth_R, group_R = _campaigns(rng, np.full(330, 2), 0.97, 0.05)
        found = bound_precision(truth_R, np.ones(660), group_R, confidence=0.95, error_weight=1.0)
        passed += found.lower >= 0.95
    assert passed / 200 > 0.65  # .80 is the most that independent rows allow


def test_lower_bound_is_missed_rarely_and_the_point_estimate_often() -> None:
    rng = np.random.default_rng(19)
    missed_by_bound = missed_by_point = 0
    for _ in range(150):
        chance_N = 1 / (1 + np.exp(-rng.normal(-3, 5, 3_000)))
        truth_N = (rng.random(3_000) < chance_N).astype(np.int8)
        block = _solve(chance_N, truth_N).open.get("block")
        if block is not None:
            missed_by_bound += chance_N[chance_N >= block].mean() < 0.95
        order = np.argsort(-chance_N)
        precision_N = np.cumsum(truth_N[order]) / np.arange(1, 3_001)
        chosen = np.flatnonzero(precision_N >= 0.95)[-1]
        missed_by_point += chance_N[order[: chosen + 1]].mean() < 0.95
    assert missed_by_bound / 150 <= 0.06
    assert missed_by_point / 150 > 0.4


def test_thresholds_survive_a_round_trip(tmp_path: Path) -> None:
    solved = _solve(*_sure(299))
    save_thresholds(tmp_path / "thresholds.json", [solved])
    assert load_solved(tmp_path / "thresholds.json") == (solved,)
    assert read_thresholds(tmp_path / "thresholds.json") == {"weapons": solved.open}


@pytest.mark.parametrize("value", [1.5, None])
def test_load_refuses_altered_thresholds(value: float | None, tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    save_thresholds(path, [_solve(*_sure(299))])
    content = json.loads(path.read_text())
    content["policies"]["weapons"]["evidence"]["block"]["threshold"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BundleRejected, match="no readable thresholds"):
        load_solved(path)


def test_load_refuses_a_missing_tier(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    save_thresholds(path, [_solve(*_sure(299))])
    content = json.loads(path.read_text())
    del content["policies"]["weapons"]["evidence"]["tag"]
    path.write_text(json.dumps(content))
    with pytest.raises(BundleRejected, match="every tier"):
        load_solved(path)
