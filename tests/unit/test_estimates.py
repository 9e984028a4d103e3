"""Resampled bounds: a figure whose resamples are biased is bounded by more than their percentiles."""

import numpy as np
import pytest

from moderation.evaluation.bootstrap import GroupBootstrap, Ranking
from moderation.gates.estimates import FewCounted, Resampled, groups_worth


def test_bounds_of_a_ratio_are_even_on_the_log_scale() -> None:
    values_B = np.exp(np.random.default_rng(3).normal(np.log(0.08), 0.75, 2_000))
    plain, ratio = Resampled(0.08, values_B, 9), Resampled(0.08, values_B, 9, is_ratio=True)
    assert plain.high(0.9997) < 0.6 < 2 < ratio.high(0.9997)
    assert plain.low(0.9997) < 0 < ratio.low(0.9997)


def test_bounds_show_nothing_wrong_on_a_handful_of_positives() -> None:
    values_B = np.full(500, 1e-6)  # one violation, missed, in every resample that has it
    few, enough = Resampled(1e-6, values_B, 0), Resampled(1e-6, values_B, 20)
    assert few.high(0.9995) == np.inf
    assert few.low(0.9995) == -np.inf
    assert enough.high(0.9995) < 0.4


def test_bounds_are_percentiles_when_resamples_are_unbiased() -> None:
    values_B = np.linspace(0, 1, 1_001)
    spread = Resampled(0.5, values_B)
    assert spread.low(0.95) == pytest.approx(0.05)
    assert spread.high(0.95) == pytest.approx(0.95)


def test_bound_is_further_when_resamples_lie_above_the_figure() -> None:
    values_B = np.linspace(0, 1, 1_001)
    spread = Resampled(0.4, values_B)
    assert spread.low(0.95) < 0.02
    assert spread.high(0.95) == pytest.approx(0.95)
    mirrored = Resampled(0.6, values_B)
    assert mirrored.high(0.95) > 0.98
    assert mirrored.low(0.95) == pytest.approx(0.05)


def test_tails_are_longer_when_few_groups_were_seen() -> None:
    values_B = np.random.default_rng(1).normal(0.5, 0.1, 2_000)
    many, few = Resampled(0.5, values_B), Resampled(0.5, values_B, 9, 10)
    assert few.low(0.95) < many.low(0.95) - 0.02
    assert few.high(0.9998) > many.high(0.9998) + 0.15
    beyond = Resampled(0.5, values_B, 4)
    assert beyond.low(0.9998) == -np.inf


def test_bounds_show_nothing_when_one_group_was_resampled() -> None:
    same_B = np.full(500, 0.99)  # one campaign is found in every resample that draws it
    alone = Resampled(0.99, same_B, 0, 1)
    assert (alone.low(0.6), alone.high(0.6)) == (-np.inf, np.inf)


def test_percentiles_are_further_out_when_groups_are_few() -> None:
    rng = np.random.default_rng(4)
    missed = np.zeros(2)
    for _ in range(400):
        mean_B = rng.choice(rng.normal(size=10), (300, 10)).mean(axis=1)
        missed += [
            Resampled(float(np.mean(mean_B)), mean_B, 9, groups).low(0.95) > 0
            for groups in (10, np.inf)
        ]
    assert missed[0] / 400 <= 0.07 < missed[1] / 400  # 5 %, and two standard errors


def test_groups_are_worth_fewer_when_one_has_most() -> None:
    group_V = np.array([0] * 90 + list(range(1, 11)))
    assert groups_worth(np.ones(100), group_V) == pytest.approx(100**2 / (90**2 + 10))
    assert groups_worth(np.ones(0), np.zeros(0, np.int64)) == 0
    assert groups_worth(np.array([9.0, 1.0]), np.array([4, 2])) == pytest.approx(100 / 82)


def test_average_precision_is_rarely_bounded_too_high() -> None:
    rng = np.random.default_rng(1)

    def drawn(times: int) -> tuple[np.ndarray, np.ndarray]:
        truth_N = np.repeat(np.array([1, 0], np.int8), [60 * times, 480 * times])
        return rng.normal(size=len(truth_N)) + 2.0 * truth_N, truth_N

    def ranked(
        score_N: np.ndarray, truth_N: np.ndarray, num: int
    ) -> tuple[Ranking, GroupBootstrap]:
        draws = GroupBootstrap.of(np.arange(len(truth_N)), num_resamples=num, seed=2)
        return Ranking.of(score_N, truth_N, np.ones(len(truth_N)), draws), draws

    true = ranked(*drawn(300), 1)[0].average_precision()
    missed = 0
    for _ in range(150):
        ranking, draws = ranked(*drawn(1), 250)
        spread = Resampled(ranking.average_precision(), ranking.resampled(draws))
        missed += spread.low(0.95) > true
    assert missed / 150 <= 0.09  # 5 %, and two standard errors; plain percentiles miss 11 %


@pytest.mark.parametrize(("counted", "most"), [(0, 2.996), (1, 4.744)])
def test_few_counted_of_many_predicted_are_far_too_many(counted: int, most: float) -> None:
    spread = FewCounted(
        12.0, counted, 2.0
    )  # a count with the mean `most` is no larger in 5 % of cases
    assert spread.low(0.95) == pytest.approx(6.0 / most, rel=1e-3)
    assert spread.low(0.9999) < spread.low(0.95)
    assert spread.high(0.95) == np.inf
