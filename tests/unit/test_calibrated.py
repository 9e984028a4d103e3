"""Calibration gates: blocked where expected calibration error is blind, and bounds that know what audits may miss."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from moderation.evaluation import metrics
from moderation.evaluation.bootstrap import GroupBootstrap
from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import Judgement
from moderation.gates.lines import Missed, fit_line
from moderation.release import load_release
from tests.gate_rates import CALIBRATION, calibrated_traffic, judged, with_log_odds
from tests.gate_world import CONTRACT, with_candidate

Floats = npt.NDArray[np.float64]

_ECE_ALARM = 0.05
"""A usual limit; where violations are as rare as 1:250, none of these cases comes near."""


def _states(judgement: Judgement) -> dict[str, str]:
    return {result.gate.id: result.state for result in judgement.results}


def _expected_calibration_error(found: ScoredSet, column: int) -> float:
    """Return the usual figure, in ten bins of equal width."""
    probability_N, truth_N = found.candidate.probability_NP[:, column], found.truth_NP[:, column]
    bin_N = np.minimum((probability_N * 10).astype(int), 9)
    off = np.bincount(bin_N, found.weight * (probability_N - truth_N), minlength=10)
    return float(np.abs(off).sum() / found.weight.sum())


def _constant(found: ScoredSet) -> ScoredSet:
    rate_P = (found.weight[:, None] * found.truth_NP).sum(axis=0) / found.weight.sum()
    log_odds_P = np.log(rate_P / (1 - rate_P))
    return with_candidate(found, np.tile(log_odds_P, (found.num_rows, 1)))


def _three_times(found: ScoredSet) -> ScoredSet:
    return with_log_odds(found, lambda x_NP: 3 * x_NP)


def _uncorrected(found: ScoredSet) -> ScoredSet:
    return with_log_odds(found, lambda x_NP: x_NP + np.log(50))


def test_calibrated_candidate_passes_every_gate() -> None:
    states = _states(judged(calibrated_traffic(seed=4), *CALIBRATION))
    assert set(states) == set(CALIBRATION)
    assert set(states.values()) == {"pass"}


@pytest.mark.parametrize(
    ("spoil", "failed"),
    [
        (_three_times, {"calibration-slope-low"}),
        (_uncorrected, {"calibration-shift-low", "calibration-overall-high"}),
        (_constant, set()),
    ],
)
def test_bad_calibration_is_blocked_where_its_error_is_small(
    spoil: Callable[[ScoredSet], ScoredSet], failed: set[str]
) -> None:
    spoilt = spoil(calibrated_traffic(seed=4))
    errors = [_expected_calibration_error(spoilt, column) for column in range(3)]
    assert max(errors) < _ECE_ALARM
    judgement = judged(spoilt, *CALIBRATION)
    assert not judgement.is_passing
    states = _states(judgement)
    assert failed <= {gate for gate, state in states.items() if state == "fail"}


def test_constant_score_has_no_slope_and_is_told() -> None:
    result = judged(_constant(calibrated_traffic(seed=4)), "calibration-slope-low").results[0]
    assert result.state == "no_data"
    assert result.blocks
    assert "every score is the same" in result.reason


@pytest.mark.parametrize(
    ("moved", "failed"),
    [
        (-2.0, {"calibration-shift-high", "calibration-overall-low"}),
        (2.0, {"calibration-shift-low", "calibration-overall-high", "calibration-in-review-high"}),
    ],
)
def test_both_directions_are_blocked(moved: float, failed: set[str]) -> None:
    found = with_log_odds(calibrated_traffic(seed=4), lambda x_NP: x_NP + moved)
    states = _states(judged(found, *CALIBRATION))
    assert failed <= {gate for gate, state in states.items() if state == "fail"}


def test_timid_scores_are_blocked_by_the_high_slope() -> None:
    found = with_log_odds(calibrated_traffic(seed=4), lambda x_NP: 0.4 * (x_NP + 2) - 2)
    assert _states(judged(found, "calibration-slope-high")) == {"calibration-slope-high": "fail"}


@pytest.mark.parametrize(
    ("moved", "gate"), [(-3.0, "calibration-by-slice-low"), (3.0, "calibration-by-slice-high")]
)
def test_one_miscalibrated_language_is_blocked(moved: float, gate: str) -> None:
    found = calibrated_traffic(seed=4)
    there_N1 = (found.slices["language"] == "pl")[:, None]
    broken = with_candidate(found, found.candidate.log_odds_NP + moved * there_N1)
    result = judged(broken, gate).results[0]
    assert result.state == "fail"
    failed = {check.estimate.of for check in result.checks if check.state == "fail"}
    assert all("language=pl" in of for of in failed)


def test_few_violations_are_not_certified() -> None:
    found = calibrated_traffic(60_000, seed=4)
    states = _states(judged(found, "calibration-slope-low", "calibration-slope-high"))
    assert set(states.values()) == {"not_certified"}


@pytest.mark.parametrize("gate", [gate for gate in CALIBRATION if "slice" not in gate])
def test_nothing_passes_when_no_violation_is_known(gate: str) -> None:
    found = calibrated_traffic(60_000, seed=4)
    none = replace(found, truth_NP=np.zeros_like(found.truth_NP))
    result = judged(none, gate).results[0]
    assert result.state == "no_data"
    assert result.blocks


@pytest.mark.parametrize("gate", CALIBRATION)
def test_score_that_is_no_number_is_no_data(gate: str) -> None:
    found = calibrated_traffic(60_000, seed=4)
    bad = with_candidate(found, np.full_like(found.candidate.log_odds_NP, np.nan))
    assert judged(bad, gate).results[0].blocks


@pytest.mark.parametrize("gate", ["calibration-by-slice-low", "calibration-by-slice-high"])
def test_slice_is_no_data_when_no_value_is_known(gate: str) -> None:
    found = calibrated_traffic(seed=4)
    unknown = dict(found.slices) | {"region": np.full(found.num_rows, "")}
    result = judged(replace(found, slices=unknown), gate).results[0]
    assert result.state == "no_data"
    assert result.blocks
    assert "weapons · region=?" in result.reason


@pytest.mark.parametrize("gate", CALIBRATION)
def test_nothing_passes_when_violations_are_of_few_sellers(gate: str) -> None:
    found = calibrated_traffic(seed=4)
    violates_N = (found.truth_NP == 1).any(axis=1)
    fewer = replace(found, group=np.where(violates_N, found.group % 4, found.group))
    result = judged(fewer, gate).results[0]
    assert result.state == "not_certified"
    assert result.blocks
    assert "it would take 10 sellers and campaigns with violations" in result.reason


def test_score_that_is_no_number_is_not_just_unflagged() -> None:
    found = calibrated_traffic(60_000, seed=4)
    log_odds_NP = found.candidate.log_odds_NP.copy()
    log_odds_NP[np.flatnonzero(found.truth_NP[:, 0] == 1)[:5], 0] = np.nan
    checks = (
        judged(with_candidate(found, log_odds_NP), "calibration-in-review-low").results[0].checks
    )
    assert [check.state == "no_data" for check in checks] == [True, False, False]


def test_closed_review_is_no_data() -> None:
    found = calibrated_traffic(60_000, seed=4)
    closed = replace(found, candidate=replace(found.candidate, thresholds={}))
    result = judged(closed, "calibration-in-review-low").results[0]
    assert result.state == "no_data"
    assert "nothing is flagged" in result.reason


def test_slope_brings_a_reliability_plot() -> None:
    check = judged(calibrated_traffic(seed=4), "calibration-slope-low").results[0].checks[0]
    bins = check.estimate.detail["reliability"]
    assert len(bins) >= 8
    assert all(set(one) == {"predicted", "observed", "rows", "positives"} for one in bins)
    assert check.estimate.detail["shift"] == pytest.approx(0, abs=0.4)


def test_every_limit_has_both_directions() -> None:
    gates = [g for g in load_release(CONTRACT).gates if g.id.startswith("calibration-")]
    sides: dict[tuple[str, tuple[str, ...]], set[str]] = {}
    for gate in gates:
        sides.setdefault((gate.measure, gate.slices), set()).add(gate.comparator)
    assert len(sides) == 5
    assert all(both == {"at_least", "at_most"} for both in sides.values())


def _thinned(
    rng: np.random.Generator, num: int, thinned: int
) -> tuple[Floats, npt.NDArray[np.int8], Floats, npt.NDArray[np.int64]]:
    """Return calibrated traffic of one policy: what was flagged, and audits of one in so many."""
    group_N = rng.integers(0, num // 3, num)
    log_odds_N = 4.5 * (rng.normal(size=num)[group_N] * 0.55 + rng.normal(size=num) * 0.84) - 13
    truth_N = (rng.random(num) < 1 / (1 + np.exp(-log_odds_N))).astype(np.int8)
    flagged_N = log_odds_N > -2
    kept = np.flatnonzero(flagged_N | (rng.random(num) < 1 / thinned))
    weight_N = np.where(flagged_N, 1.0, thinned)[kept]
    return log_odds_N[kept], truth_N[kept], weight_N, group_N[kept]


@pytest.mark.parametrize(("num", "thinned"), [(30_000, 1), (45_000, 60)])
def test_line_covers_the_truth_when_audits_are_rare(num: int, thinned: int) -> None:
    rng = np.random.default_rng(9)
    missed = np.zeros(4)
    for seed in range(40):
        score_R, truth_R, weight_R, group_R = _thinned(rng, num, thinned)
        draws = GroupBootstrap.of(group_R, num_resamples=300, seed=seed)
        spread = fit_line(score_R, truth_R, weight_R, draws, seed=seed).spread
        slope, shift = spread["slope"], spread["shift"]
        missed += [
            slope.low(0.95) > 1,
            slope.high(0.95) < 1,
            shift.low(0.95) > 0,
            shift.high(0.95) < 0,
        ]
    assert (
        missed.max() / 60 <= 0.15
    )  # 5 %, and three standard errors; without the missed audit 40 %


def test_resampled_line_is_that_of_a_full_refit() -> None:
    rng = np.random.default_rng(2)
    score_R, truth_R, weight_R, group_R = _thinned(rng, 30_000, 5)
    draws = GroupBootstrap.of(group_R, num_resamples=120, seed=1)
    fit = fit_line(score_R, truth_R, weight_R, draws, seed=1)
    for resample in (0, 7, 60):
        times_R = draws.draws_GB[draws.member_N, resample].astype(np.float64)
        kept = times_R > 0
        line = metrics.calibration_line(score_R[kept], truth_R[kept], (weight_R * times_R)[kept])
        for figure in ("slope", "intercept", "shift"):
            found = fit.spread[figure].plain.values_B[resample]
            assert found == pytest.approx(getattr(line, figure), abs=0.01)


def test_missed_violation_weighs_nothing_when_all_was_reviewed() -> None:
    missed = Missed.of(np.array([-3.0, 0.0, 2.0]), np.ones(3), 500, 1)
    assert missed.weight == pytest.approx(1)
    assert np.quantile(missed.count_B, 0.95) == 3  # the rule of three
