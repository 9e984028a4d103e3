"""The fit of the ensemble: better than its parts, calibrated, sober with little truth."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from moderation.calibration import (
    fit_ensemble,
    fit_platt,
    group_folds,
    held_out_probabilities,
    solve_all,
)
from moderation.decision import SIGNALS
from moderation.ensemble import Ensemble
from moderation.errors import InvalidSnapshot
from moderation.signals import BEHAVIOUR, IMAGE, PATTERNS, TEXT, SignalTable
from tests.signal_world import policies, signal_world

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def world() -> SignalTable:
    return signal_world(40_000)


@pytest.fixture(scope="module")
def ensemble(world: SignalTable) -> Ensemble:
    return fit_ensemble(world, policies(), seed=3)


def _separation(score_N: Floats, truth_N: npt.NDArray[np.int8]) -> float:
    positive, negative = score_N[truth_N == 1], score_N[truth_N == 0]
    return float((positive[:, None] > negative[None]).mean())


def test_ensemble_beats_every_member(world: SignalTable, ensemble: Ensemble) -> None:
    test = world.select("test")
    test = test.take(test.available() == 7)
    signals_NPM, status_NPM = test.natural()
    score_N, truth_N = ensemble.combine(signals_NPM, status_NPM)[:, 0], test.truth_NP[:, 0]
    best = max(_separation(signals_NPM[:, 0, m], truth_N) for m in range(len(SIGNALS)))
    assert _separation(score_N, truth_N) > best + 0.01


@pytest.mark.parametrize("bits", PATTERNS)
def test_every_pattern_is_calibrated(bits: int, world: SignalTable, ensemble: Ensemble) -> None:
    test = world.select("test")
    signals_RPM, status_RPM, rows = test.pattern(bits)
    probability_RP = ensemble.combine(signals_RPM, status_RPM)
    weight_R = test.weight[rows]
    for column in range(len(test.policies)):
        observed = weight_R @ test.truth_NP[rows, column]
        assert weight_R @ probability_RP[:, column] / observed == pytest.approx(1, abs=0.25)


def test_no_member_is_read_backwards() -> None:
    world = signal_world(8_000)
    contrary = replace(world, ngram_NP=-world.ngram_NP)
    for fits in fit_ensemble(contrary, policies(), seed=3).fits.values():
        for fit in fits:
            assert min(fit.weights) >= 0
            assert fit.slope > 0
            assert fit.weights[SIGNALS.index("ngram")] < 0.17  # half of the least average


def test_fit_is_the_same_twice(world: SignalTable, ensemble: Ensemble) -> None:
    assert fit_ensemble(world, policies(), seed=3) == ensemble


def test_test_rows_teach_nothing(world: SignalTable, ensemble: Ensemble) -> None:
    is_test = np.isin(world.role, ("test", "solve", "tune"))[:, None]
    altered = replace(world, truth_NP=np.where(is_test, 1 - world.truth_NP, world.truth_NP))
    assert fit_ensemble(altered, policies(), seed=3) == ensemble


def test_few_positives_keep_near_the_members_average() -> None:
    world = signal_world(8_000)
    rows = np.flatnonzero(world.truth_NP[:, 0] == 1)
    truth_NP = world.truth_NP.copy()
    truth_NP[rows[6:], 0] = -1
    fit = fit_ensemble(replace(world, truth_NP=truth_NP), policies(), seed=3).fits[7][0]
    assert 0 < fit.num_positives <= 6
    np.testing.assert_allclose(fit.weights, 1 / len(SIGNALS), atol=0.6)
    assert 0.3 < fit.slope < 3


def test_policy_without_positives_answers_a_low_prior() -> None:
    world = signal_world(6_000)
    truth_NP = world.truth_NP.copy()
    truth_NP[:, 1] = 0
    ensemble = fit_ensemble(replace(world, truth_NP=truth_NP), policies(), seed=3)
    assert {fits[1].origin for fits in ensemble.fits.values()} == {"prior"}
    assert (ensemble.combine(*world.natural())[:, 1] < 0.001).all()


def test_policy_never_reviewed_does_not_flood() -> None:
    world = signal_world(6_000)
    truth_NP = world.truth_NP.copy()
    truth_NP[:, 1] = -1
    ensemble = fit_ensemble(replace(world, truth_NP=truth_NP), policies(), seed=3)
    assert ensemble.prior_P[1] < 0.01


def test_pattern_without_truth_falls_back_to_a_poorer_one() -> None:
    world = signal_world(6_000)
    nobody = np.full_like(world.behaviour_NP, np.nan)
    ensemble = fit_ensemble(replace(world, behaviour_NP=nobody), policies(), seed=3)
    assert ensemble.fits[7][0].origin == "pattern image+text"
    assert ensemble.fits[7][0].weights == ensemble.fits[3][0].weights
    assert ensemble.fits[IMAGE | BEHAVIOUR][0].origin == "pattern image"
    assert ensemble.fits[BEHAVIOUR][0].origin == "prior"
    assert ensemble.fits[TEXT][0].origin == "fitted"


def test_platt_mends_overconfidence() -> None:
    rng = np.random.default_rng(5)
    log_odds_R = rng.normal(-2, 2, 20_000)
    truth_R = (rng.random(20_000) < 1 / (1 + np.exp(-log_odds_R))).astype(np.int8)
    slope, offset = fit_platt(3 * log_odds_R + 1, truth_R, np.ones(20_000))
    assert slope == pytest.approx(1 / 3, rel=0.1)
    assert offset == pytest.approx(-1 / 3, abs=0.15)


def test_platt_undoes_thinned_negatives_by_weight() -> None:
    rng = np.random.default_rng(6)
    log_odds_N = rng.normal(-3, 2, 60_000)
    truth_N = (rng.random(60_000) < 1 / (1 + np.exp(-log_odds_N))).astype(np.int8)
    kept = (truth_N == 1) | (rng.random(60_000) < 0.05)
    weight_N = np.where(truth_N == 1, 1.0, 20.0)
    _, weighted = fit_platt(log_odds_N[kept], truth_N[kept], weight_N[kept])
    _, habitual = fit_platt(log_odds_N[kept], truth_N[kept], np.ones(kept.sum()))
    assert weighted == pytest.approx(0, abs=0.25)
    assert habitual == pytest.approx(np.log(20), abs=0.4)


def test_folds_never_part_a_group(world: SignalTable) -> None:
    fold_N = group_folds(world.group, seed=1)
    for group in np.unique(world.group)[:200]:
        assert len(np.unique(fold_N[world.group == group])) == 1
    assert np.bincount(fold_N).min() > len(fold_N) / 10


def test_solving_rows_are_those_of_their_role_when_enough(
    world: SignalTable, ensemble: Ensemble
) -> None:
    table, probability_NP = held_out_probabilities(world, ensemble, seed=3)
    assert set(table.role) == {"solve"}
    assert probability_NP.shape == table.truth_NP.shape


def test_solving_rows_are_cross_fitted_when_too_few() -> None:
    world = signal_world(6_000)
    declared = replace(world, role=np.where(world.role == "test", "test", "train"))
    declared = replace(declared, fold=np.where(declared.role == "train", 0, -1))
    ensemble = fit_ensemble(declared, policies(), seed=3)
    table, probability_NP = held_out_probabilities(declared, ensemble, seed=3)
    assert set(table.role) == {"train"}
    fitted_NP = ensemble.combine(*table.natural())
    assert not np.array_equal(probability_NP, fitted_NP)
    np.testing.assert_allclose(probability_NP, fitted_NP, atol=0.25)


def test_every_policy_gets_its_tiers(world: SignalTable, ensemble: Ensemble) -> None:
    solved = solve_all(world, ensemble, policies(), seed=3)
    assert tuple(one.policy for one in solved) == policies().ids
    for one in solved:
        assert list(one.tiers) == ["tag", "review", "block", "suspend"]
        assert "review" in one.open


def test_fit_refuses_other_policies(world: SignalTable) -> None:
    with pytest.raises(InvalidSnapshot, match="policy file has"):
        fit_ensemble(replace(world, policies=("a", "b", "c")), policies(), seed=3)


def test_fit_refuses_a_table_without_truth(world: SignalTable) -> None:
    unknown = replace(world, truth_NP=np.full_like(world.truth_NP, -1))
    with pytest.raises(InvalidSnapshot, match="no row with known truth"):
        fit_ensemble(unknown, policies(), seed=3)
