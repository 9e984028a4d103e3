"""The ensemble: exact replay, missing modalities, and files that cannot read a member backwards."""

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moderation.decision import SIGNALS
from moderation.ensemble import Ensemble, PatternFit
from moderation.errors import BundleRejected
from moderation.signals import MISSING, OK, PATTERNS, members_of

M = len(SIGNALS)
ERROR = 2


def _fit(bits: int, scale: float) -> PatternFit:
    weights = tuple(scale if m in members_of(bits) else 0.0 for m in range(M))
    return PatternFit(weights, -0.3 * bits, 0.9, 0.1, "fitted", 100, 10)


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    fits = {bits: (_fit(bits, 0.37), _fit(bits, 0.21)) for bits in PATTERNS}
    return Ensemble(("weapons", "spam"), (0.01, 0.2), fits)


def _batch(num_rows: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    rng = np.random.default_rng(5)
    signals_NPM = rng.normal(0, 4, (num_rows, 2, M))
    status_NPM = rng.choice([OK, MISSING, ERROR], (num_rows, 2, M), p=[0.7, 0.2, 0.1])
    return signals_NPM, status_NPM.astype(np.int8)


@given(st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_combine_does_not_depend_on_the_batch(num_rows: int) -> None:
    fits = {bits: (_fit(bits, 0.37), _fit(bits, 0.21)) for bits in PATTERNS}
    ensemble = Ensemble(("weapons", "spam"), (0.01, 0.2), fits)
    signals_NPM, status_NPM = _batch(num_rows)
    together = ensemble.combine(signals_NPM, status_NPM)
    rows = [slice(row, row + 1) for row in range(num_rows)]
    alone = [ensemble.combine(signals_NPM[row], status_NPM[row]) for row in rows]
    assert_array_equal(together, np.concatenate(alone))
    backwards = ensemble.combine(signals_NPM[::-1], np.asfortranarray(status_NPM[::-1]))
    assert_array_equal(together[::-1], backwards)


def test_combine_repeats_from_signals_sent_as_float32(ensemble: Ensemble) -> None:
    signals_NPM, status_NPM = _batch(50)
    sent = signals_NPM.astype(np.float32).astype(np.float64)
    assert_array_equal(
        ensemble.combine(signals_NPM, status_NPM), ensemble.combine(sent, status_NPM)
    )


def test_combine_ignores_the_value_of_a_missing_signal(ensemble: Ensemble) -> None:
    signals_NPM, status_NPM = _batch(30)
    other = np.where(status_NPM == OK, signals_NPM, np.nan)
    assert_array_equal(
        ensemble.combine(signals_NPM, status_NPM), ensemble.combine(other, status_NPM)
    )


def test_combine_answers_the_prior_when_nothing_is_there(ensemble: Ensemble) -> None:
    status_NPM = np.full((1, 2, M), MISSING, np.int8)
    probability_NP = ensemble.combine(np.full((1, 2, M), np.nan), status_NPM)
    np.testing.assert_allclose(probability_NP, [[0.01, 0.2]], rtol=1e-12)


def test_combine_uses_the_fit_of_the_modalities_present(ensemble: Ensemble) -> None:
    status_NPM = np.full((1, 2, M), MISSING, np.int8)
    status_NPM[..., SIGNALS.index("behaviour")] = OK
    probability = ensemble.combine(np.full((1, 2, M), 2.0), status_NPM)[0, 0]
    log_odds = 0.9 * (-0.3 * 4 + 0.37 * 2.0) + 0.1
    assert probability == pytest.approx(1 / (1 + math.exp(-log_odds)), rel=1e-12)


def test_failed_member_is_stood_in_for_by_the_others(ensemble: Ensemble) -> None:
    signals_NPM = np.full((1, 2, M), 1.5)
    status_NPM = np.full((1, 2, M), OK, np.int8)
    whole = ensemble.combine(signals_NPM, status_NPM)
    status_NPM[..., SIGNALS.index("fusion")] = ERROR
    np.testing.assert_allclose(ensemble.combine(signals_NPM, status_NPM), whole, rtol=1e-12)


def test_combine_never_falls_when_a_member_rises(ensemble: Ensemble) -> None:
    signals_NPM, _ = _batch(50)
    status_NPM = np.full(signals_NPM.shape, OK, np.int8)
    before = ensemble.combine(signals_NPM, status_NPM)
    for member in range(M):
        raised = signals_NPM.copy()
        raised[..., member] += 1
        assert (ensemble.combine(raised, status_NPM) >= before).all()


def test_combine_stays_in_bounds_when_logits_are_infinite(ensemble: Ensemble) -> None:
    status_NPM = np.full((2, 2, M), OK, np.int8)
    signals_NPM = np.stack([np.full((2, M), np.inf), np.full((2, M), -np.inf)])
    probability_NP = ensemble.combine(signals_NPM, status_NPM)
    assert (probability_NP[0] > 0.999).all()
    assert (probability_NP[1] < 0.001).all()


def test_combine_refuses_a_signal_that_is_no_number(ensemble: Ensemble) -> None:
    signals_NPM = np.full((1, 2, M), np.nan)
    with pytest.raises(ValueError, match="not a number"):
        ensemble.combine(signals_NPM, np.full((1, 2, M), OK, np.int8))


def test_combine_refuses_a_wrong_shape(ensemble: Ensemble) -> None:
    with pytest.raises(ValueError, match="want"):
        ensemble.combine(np.zeros((1, 3, M)), np.zeros((1, 3, M), np.int8))


def test_combine_takes_an_empty_batch(ensemble: Ensemble) -> None:
    assert ensemble.combine(*_batch(0)).shape == (0, 2)


def test_ensemble_is_exact_after_a_round_trip(ensemble: Ensemble, tmp_path: Path) -> None:
    ensemble.save(tmp_path / "ensemble.json")
    loaded = Ensemble.load(tmp_path / "ensemble.json")
    assert loaded == ensemble
    assert_array_equal(loaded.combine(*_batch(30)), ensemble.combine(*_batch(30)))


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("weights", [-0.1, 0, 0, 0, 0], "backwards"),
        ("slope", 0.0, "backwards"),
        ("weights", [0.1], "one finite weight per member"),
        ("offset", "1", "no readable"),
    ],
)
def test_load_refuses_an_impossible_fit(
    key: str, value: object, complaint: str, ensemble: Ensemble, tmp_path: Path
) -> None:
    path = tmp_path / "ensemble.json"
    ensemble.save(path)
    content = json.loads(path.read_text())
    content["patterns"]["7"]["fits"]["spam"][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(BundleRejected, match=complaint):
        Ensemble.load(path)


def test_load_refuses_other_members(ensemble: Ensemble, tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    ensemble.save(path)
    path.write_text(path.read_text().replace('"ngram"', '"wordcount"'))
    with pytest.raises(BundleRejected, match="other members"):
        Ensemble.load(path)
