"""The small logistic regression: at the optimum, within its bounds, against another implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from moderation.errors import PermanentError
from moderation.logistic import Floats, Restraint, fit_logistic


@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([0.5, 3.0, 20.0]))
@settings(max_examples=30, deadline=None)
def test_fit_is_as_good_as_lbfgs(seed: int, num_coefficients: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    design = rng.normal(0, scale, (150, num_coefficients))
    design[:, 0] += design[:, -1]  # members agree in part
    truth = (rng.random(150) < 1 / (1 + np.exp(-design[:, 0] / scale))).astype(np.int8)
    weight = rng.uniform(0.1, 10, 150)
    restraint = Restraint(
        np.full(num_coefficients, 0.3), np.full(num_coefficients, 2.0), np.zeros(num_coefficients)
    )

    def loss(x: Floats) -> float:
        margin = np.where(truth == 1, 1.0, -1.0) * (design @ x)
        return float((weight * np.logaddexp(0, -margin)).sum() + ((x - 0.3) ** 2).sum())

    found = fit_logistic(design, truth, weight, restraint)
    bounds = [(0, None)] * num_coefficients
    other = optimize.minimize(loss, restraint.centre_D, method="L-BFGS-B", bounds=bounds)
    assert (found >= 0).all()
    assert loss(found) <= other.fun * (1 + 1e-5) + 1e-6


def test_fit_with_offset_finds_the_shift() -> None:
    rng = np.random.default_rng(1)
    log_odds = rng.normal(0, 2, 20_000)
    truth = (rng.random(20_000) < 1 / (1 + np.exp(-log_odds))).astype(np.int8)
    ones = np.ones((20_000, 1))
    (shift,) = fit_logistic(
        ones, truth, np.ones(20_000), Restraint.none(1), offset_R=log_odds + 1.5
    )
    assert shift == pytest.approx(-1.5, abs=0.1)


def test_fit_refuses_scores_that_are_no_numbers() -> None:
    with pytest.raises(PermanentError, match="finite"):
        fit_logistic(
            np.full((2, 1), np.nan), np.array([0, 1], np.int8), np.ones(2), Restraint.none(1)
        )
