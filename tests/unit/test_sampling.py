"""Sampling: violations every epoch, others by weight, and a correction that gives back the real base rate."""

import numpy as np
import pytest

from moderation.sampling import EpochPlan


def _truth(num_violating: int, num_others: int) -> np.ndarray:
    return np.array([[1, 0]] * num_violating + [[0, 0]] * num_others, np.int8)


def test_epoch_shows_every_violation_and_a_bounded_rest() -> None:
    truth_NP = _truth(5, 100)
    plan = EpochPlan.of(np.arange(105), truth_NP, np.ones(105), 4.0)
    for epoch in range(3):
        drawn = plan.draw(1, epoch)
        assert np.bincount(drawn, minlength=105)[:5].tolist() == [1] * 5
        assert len(drawn) == plan.num_draws == 25
        assert len(set(drawn.tolist())) == 25


def test_epoch_is_the_same_when_drawn_again() -> None:
    plan = EpochPlan.of(np.arange(105), _truth(5, 100), np.ones(105), 4.0)
    np.testing.assert_array_equal(plan.draw(1, 2), plan.draw(1, 2))
    assert not np.array_equal(plan.draw(1, 2), plan.draw(1, 3))


def test_epoch_shows_all_rows_when_none_is_too_many() -> None:
    plan = EpochPlan.of(np.arange(20), _truth(10, 10), np.ones(20), 4.0)
    assert sorted(plan.draw(0, 0).tolist()) == list(range(20))


def test_rows_without_any_truth_are_never_drawn() -> None:
    truth_NP = _truth(4, 20)
    truth_NP[10:15] = -1
    plan = EpochPlan.of(np.arange(24), truth_NP, np.ones(24), 100.0)
    assert not set(plan.draw(0, 0).tolist()) & set(range(10, 15))


def test_heavy_rows_are_drawn_as_often_as_expected() -> None:
    weight_N = np.where(np.arange(210) % 2, 25.0, 1.0)
    plan = EpochPlan.of(np.arange(210), _truth(10, 200), weight_N, 3.0)
    counts = sum(np.bincount(plan.draw(7, e), minlength=210) for e in range(400)) / 400
    expected = np.empty(210)
    expected[plan.rows_R] = plan.expected_R
    assert expected[11] == pytest.approx(5 * expected[10])
    np.testing.assert_allclose(counts, expected, atol=0.12)


def test_shift_gives_back_the_weighted_base_rate() -> None:
    truth_NP, weight_N = _truth(10, 400), np.array([2.0] * 10 + [50.0] * 400)
    plan = EpochPlan.of(np.arange(410), truth_NP, weight_N, 4.0)
    everywhere = np.ones(410, bool)
    drawn_odds, real_odds = 10 / 40, 20 / 20_000
    shift_P = plan.shift_P(truth_NP, weight_N, everywhere)
    assert shift_P[0] == pytest.approx(np.log(real_odds / drawn_odds))
    assert np.isfinite(shift_P).all()
