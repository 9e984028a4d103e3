"""Weighted metrics and grouped intervals, against plain definitions and independent implementations."""

import doctest
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from moderation import calibration, precision, signals
from moderation.evaluation import bootstrap, metrics
from moderation.evaluation.bootstrap import GroupBootstrap, Interval, Ranking, paired_difference
from moderation.evaluation.metrics import (
    average_precision,
    calibration_line,
    confusion,
    false_positives_by_images,
    precision_at_recall,
    precision_recall,
    predicted_over_observed,
    recall_at_precision,
    reliability_bins,
    roc_points,
)

Floats = npt.NDArray[np.float64]
Rows = tuple[Floats, npt.NDArray[np.int8], Floats, npt.NDArray[np.int64]]


def _rows(num: int, seed: int = 0, *, rate: float = 0.1, lift: float = 1.5) -> Rows:
    """Return scores with ties, truth, weights and groups."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(num) < rate).astype(np.int8)
    truth[:2] = (1, 0)
    score: Floats = np.round(rng.normal(0, 1, num) + lift * truth, 1).astype(np.float64)
    return score, truth, rng.uniform(0.5, 20, num), rng.integers(0, max(2, num // 3), num)


@pytest.mark.parametrize(
    "module", [metrics, bootstrap, precision, signals, calibration], ids=lambda m: m.__name__
)
def test_examples_in_docstrings_hold(module: object) -> None:
    names = {"np": np}
    result = doctest.testmod(module, extraglobs=names)  # type: ignore[arg-type]
    assert result.failed == 0


@given(st.integers(2, 400), st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_average_precision_agrees_with_scikit_learn(num: int, seed: int) -> None:
    score, truth, weight, _ = _rows(num, seed)
    expected = average_precision_score(truth, score, sample_weight=weight)
    assert average_precision(score, truth, weight) == pytest.approx(expected)


def test_average_precision_of_a_constant_is_the_prevalence() -> None:
    _, truth, weight, _ = _rows(500)
    prevalence = (weight * truth).sum() / weight.sum()
    assert average_precision(np.zeros(500), truth, weight) == pytest.approx(prevalence)


def test_average_precision_of_no_violation_is_no_number() -> None:
    assert np.isnan(average_precision(np.ones(3), np.zeros(3, np.int8), np.ones(3)))


def test_weight_acts_as_repeated_rows() -> None:
    score, truth, _, _ = _rows(200)
    times = np.random.default_rng(1).integers(1, 6, 200)
    repeated = average_precision(
        np.repeat(score, times), np.repeat(truth, times), np.ones(times.sum())
    )
    assert average_precision(score, truth, times.astype(float)) == pytest.approx(repeated)


def test_enriched_sample_flatters_unless_weighted() -> None:
    score, truth, _, _ = _rows(20_000, rate=0.01)
    kept = (truth == 1) | (np.random.default_rng(2).random(20_000) < 0.05)
    weight = np.where(truth == 1, 1.0, 20.0)
    whole = average_precision(score, truth, np.ones(20_000))
    weighted = average_precision(score[kept], truth[kept], weight[kept])
    habitual = average_precision(score[kept], truth[kept], np.ones(kept.sum()))
    assert weighted == pytest.approx(whole, abs=0.05)
    assert habitual > whole + 0.2


def test_recall_and_precision_read_the_same_curve() -> None:
    score, truth, weight, _ = _rows(2_000)
    curve = precision_recall(score, truth, weight)
    recall = recall_at_precision(curve, 0.5)
    assert 0 < recall < 1
    assert precision_at_recall(curve, recall) >= 0.5
    assert recall_at_precision(curve, 1.1) == 0.0


def test_roc_points_hold_the_area_and_stay_few() -> None:
    score, truth, weight, _ = _rows(5_000)
    score = score + np.random.default_rng(3).normal(0, 1e-3, 5_000)
    fpr, tpr, threshold = roc_points(score, truth, weight, max_points=100)
    assert len(fpr) <= 100
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0.0, 0.0, 1.0, 1.0)
    assert (np.diff(threshold) < 0).all()
    area = roc_auc_score(truth, score, sample_weight=weight)
    assert np.trapezoid(tpr, fpr) == pytest.approx(area, abs=0.005)


def test_confusion_sums_to_the_weight() -> None:
    score, truth, weight, _ = _rows(300)
    assert np.sum(confusion(score > 0.5, truth, weight)) == pytest.approx(weight.sum())


def _calibrated(num: int, seed: int = 4) -> tuple[Floats, npt.NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(-3, 2, num)
    return log_odds, (rng.random(num) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)


def test_calibration_line_is_straight_when_calibrated() -> None:
    log_odds, truth = _calibrated(40_000)
    line = calibration_line(log_odds, truth, np.ones(40_000))
    assert line.slope == pytest.approx(1, abs=0.05)
    assert line.intercept == pytest.approx(0, abs=0.1)
    assert line.shift == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("spoil", "slope", "shift"),
    [(lambda z: 3 * z, 1 / 3, None), (lambda z: z + np.log(50), 1.0, -np.log(50))],
    ids=["overconfident", "uncorrected down-sampling"],
)
def test_calibration_line_sees_spoilt_scores(
    spoil: Callable[[Floats], Floats], slope: float, shift: float | None
) -> None:
    log_odds, truth = _calibrated(40_000)
    line = calibration_line(spoil(log_odds), truth, np.ones(40_000))
    assert line.slope == pytest.approx(slope, rel=0.06)
    if shift is not None:
        assert line.shift == pytest.approx(shift, abs=0.1)


def test_calibration_line_needs_both_classes() -> None:
    assert np.isnan(calibration_line(np.ones(3), np.zeros(3, np.int8), np.ones(3)).slope)


def test_predicted_over_observed_sees_a_wrong_prior() -> None:
    log_odds, truth = _calibrated(20_000)
    chance = 1 / (1 + np.exp(-log_odds))
    assert predicted_over_observed(chance, truth, np.ones(20_000)) == pytest.approx(1, abs=0.06)
    assert predicted_over_observed(2 * chance, truth, np.ones(20_000)) > 1.8


def test_reliability_bins_hold_every_row() -> None:
    log_odds, truth = _calibrated(5_000)
    bins = reliability_bins(1 / (1 + np.exp(-log_odds)), truth, np.ones(5_000))
    assert sum(b["rows"] for b in bins) == 5_000
    assert sum(b["positives"] for b in bins) == truth.sum()
    predicted = [b["predicted"] for b in bins]
    assert predicted == sorted(predicted)


def test_false_positives_rise_with_images_when_the_worst_decides() -> None:
    rng = np.random.default_rng(5)
    num_images = rng.choice([1, 8], 40_000)
    worst = np.where(num_images == 8, rng.random((8, 40_000)).max(axis=0), rng.random(40_000))
    rows = false_positives_by_images(
        worst > 0.99, np.zeros(40_000, np.int8), np.ones(40_000), num_images
    )
    assert [row["images"] for row in rows] == [1, 8]
    assert rows[0]["fpr"] == pytest.approx(0.01, abs=0.002)
    assert rows[1]["fpr"] == pytest.approx(0.077, abs=0.006)


def test_ranking_resamples_as_repeating_rows_would() -> None:
    score, truth, weight, group = _rows(400)
    draws = GroupBootstrap.of(group, num_resamples=20, seed=1)
    values = Ranking.of(score, truth, weight, draws).resampled(draws)
    for resample in range(20):
        times = draws.draws_GB[draws.member_N, resample]
        drawn = times > 0
        expected = average_precision_score(
            truth[drawn], score[drawn], sample_weight=(weight * times)[drawn]
        )
        assert values[resample] == pytest.approx(expected)


def test_ranking_equals_the_plain_metric() -> None:
    score, truth, weight, group = _rows(700)
    draws = GroupBootstrap.of(group, num_resamples=2, seed=1)
    ranking = Ranking.of(score, truth, weight, draws)
    assert ranking.average_precision() == pytest.approx(average_precision(score, truth, weight))


def test_interval_widens_when_groups_move_together() -> None:
    score, truth, weight, _ = _rows(300)
    times = 10
    score, truth, weight = score.repeat(times), truth.repeat(times), weight.repeat(times)
    widths = []
    for group in (np.repeat(np.arange(300), times), np.arange(300 * times)):
        draws = GroupBootstrap.of(group, num_resamples=300, seed=2)
        values = Ranking.of(score, truth, weight, draws).resampled(draws)
        found = Interval.of(0.0, values)
        widths.append(found.high - found.low)
    assert widths[0] > 2 * widths[1]


def test_paired_difference_is_narrower_than_either() -> None:
    score, truth, weight, group = _rows(3_000)
    better = score + 0.4 * truth
    draws = GroupBootstrap.of(group, num_resamples=300, seed=3)
    first, second = (Ranking.of(s, truth, weight, draws) for s in (better, score))
    difference = paired_difference(first, second, draws)
    alone = Interval.of(first.average_precision(), first.resampled(draws))
    assert 0 < difference.low < difference.value < difference.high
    assert difference.high - difference.low < alone.high - alone.low


def test_paired_difference_of_equals_is_nothing() -> None:
    score, truth, weight, group = _rows(200)
    draws = GroupBootstrap.of(group, num_resamples=50, seed=3)
    ranking = Ranking.of(score, truth, weight, draws)
    assert paired_difference(ranking, ranking, draws) == Interval(0.0, 0.0, 0.0)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        chance = rng.beta(2, 8, 150)
        group = np.repeat(np.arange(150), 4)
        flag = rng.random(600) < chance[group]
        draws = GroupBootstrap.of(group, num_resamples=200, seed=seed)
        found = draws.ratio(flag.astype(float), np.ones(600))
        covered += found.low <= 0.2 <= found.high
    assert covered >= 88  # 95 expected


def test_interval_of_nothing_defined_is_no_number() -> None:
    found = Interval.of(0.5, np.array([np.nan, np.nan]))
    assert np.isnan(found.low)


def test_thousand_resamples_take_seconds() -> None:
    score, truth, weight, group = _rows(20_000)
    begin = time.process_time()
    draws = GroupBootstrap.of(group, num_resamples=1_000, seed=1)
    Ranking.of(score, truth, weight, draws).resampled(draws)
    assert time.process_time() - begin < 8
