"""Sampling: violations every epoch, others by weight, and a correction that gives back the real base rate."""

import numpy as np
import pytest

from moderation.sampling import EpochPlan, Teaching


def _truth(num_violating: int, num_others: int) -> np.ndarray:
    return np.array([[1, 0]] * num_violating + [[0, 0]] * num_others, np.int8)


def test_epoch_shows_every_violation_and_a_bounded_rest() -> None:
    truth_NP = _truth(5, 100)
    plan = EpochPlan.of(np.arange(105), Teaching(truth_NP, np.ones(105)), 4.0)
    for epoch in range(3):
        drawn = plan.draw(1, epoch)
        assert np.bincount(drawn, minlength=105)[:5].tolist() == [1] * 5
        assert len(drawn) == plan.num_draws == 25
        assert len(set(drawn.tolist())) == 25


def test_epoch_is_the_same_when_drawn_again() -> None:
    plan = EpochPlan.of(np.arange(105), Teaching(_truth(5, 100), np.ones(105)), 4.0)
    np.testing.assert_array_equal(plan.draw(1, 2), plan.draw(1, 2))
    assert not np.array_equal(plan.draw(1, 2), plan.draw(1, 3))


def test_epoch_shows_all_rows_when_none_is_too_many() -> None:
    plan = EpochPlan.of(np.arange(20), Teaching(_truth(10, 10), np.ones(20)), 4.0)
    assert sorted(plan.draw(0, 0).tolist()) == list(range(20))


def test_rows_without_any_truth_are_never_drawn() -> None:
    truth_NP = _truth(4, 20)
    truth_NP[10:15] = -1
    plan = EpochPlan.of(np.arange(24), Teaching(truth_NP, np.ones(24)), 100.0)
    assert not set(plan.draw(0, 0).tolist()) & set(range(10, 15))


def test_heavy_rows_are_drawn_as_often_as_expected() -> None:
    weight_N = np.where(np.arange(210) % 2, 25.0, 1.0)
    plan = EpochPlan.of(np.arange(210), Teaching(_truth(10, 200), weight_N), 3.0)
    counts = sum(np.bincount(plan.draw(7, e), minlength=210) for e in range(400)) / 400
    expected = np.empty(210)
    expected[plan.rows_R] = plan.expected_R
    assert expected[11] == pytest.approx(5 * expected[10])
    np.testing.assert_allclose(counts, expected, atol=0.12)


def test_shift_gives_back_the_weighted_base_rate() -> None:
    truth_NP, weight_N = _truth(10, 400), np.array([2.0] * 10 + [50.0] * 400)
    taught = Teaching(truth_NP, weight_N)
    plan = EpochPlan.of(np.arange(410), taught, 4.0)
    everywhere = np.ones(410, bool)
    drawn_odds, real_odds = 10 / 40, 20 / 20_000
    shift_P = plan.shift_P(taught, everywhere)
    assert shift_P[0] == pytest.approx(np.log(real_odds / drawn_odds))
    assert np.isfinite(shift_P).all()


def _counts(plan: EpochPlan, num_rows: int, epochs: int = 400) -> np.ndarray:
    drawn = [np.bincount(plan.draw(7, epoch), minlength=num_rows) for epoch in range(epochs)]
    counts: np.ndarray = np.sum(drawn, axis=0) / epochs
    return counts


def test_emphasised_rows_are_drawn_as_many_times_as_often() -> None:
    truth_NP, emphasis_N = _truth(10, 200), np.ones(210)
    emphasis_N[[2, 3]], emphasis_N[10:30] = 2.5, 3.0
    taught = Teaching(truth_NP, np.ones(210), emphasis_N)
    plan = EpochPlan.of(np.arange(210), taught, 4.0)
    counts = _counts(plan, 210)
    assert counts[[2, 3]].mean() == pytest.approx(2.5 * counts[[0, 1]].mean(), rel=0.03)
    assert counts[10:30].mean() == pytest.approx(3 * counts[30:].mean(), rel=0.05)
    assert counts[:10].min() >= 1, "no violation is seen less for it"
    assert counts[10:].sum() == pytest.approx(40), "nor is the number of others another"
    assert len(plan.draw(7, 0)) == plan.num_draws == 13 + 40


def test_emphasis_leaves_the_base_rate_of_the_logits_alone() -> None:
    """Whatever is drawn more often, correction and drawn odds together are the odds of the weights."""
    truth_NP, weight_N = _truth(10, 400), np.array([2.0] * 10 + [50.0] * 400)
    emphasis_N = np.ones(410)
    emphasis_N[:4], emphasis_N[100:200] = 3.0, 2.0
    everywhere = np.ones(410, bool)
    found = []
    for emphasis in (None, emphasis_N):
        taught = Teaching(truth_NP, weight_N, emphasis)
        plan = EpochPlan.of(np.arange(410), taught, 4.0)
        drawn = _counts(plan, 410)
        odds = np.log(drawn[:10].sum() / drawn[10:].sum())
        found.append(odds + plan.shift_P(taught, everywhere)[0])
    assert found == pytest.approx([np.log(20 / 20_000)] * 2)


def test_emphasis_of_one_draws_what_none_draws() -> None:
    truth_NP, weight_N = _truth(7, 90), np.random.default_rng(0).uniform(1, 9, 97)
    plans = [
        EpochPlan.of(np.arange(97), Teaching(truth_NP, weight_N, emphasis), 3.0)
        for emphasis in (None, np.ones(97))
    ]
    for epoch in range(5):
        np.testing.assert_array_equal(plans[0].draw(1, epoch), plans[1].draw(1, epoch))
