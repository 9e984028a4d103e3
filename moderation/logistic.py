"""Weighted logistic regression of a few coefficients, with a ridge and lower bounds.

A handful of coefficients needs no library, whose threads cost more than the sums do. Axes: R rows,
D coefficients.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.errors import PermanentError

Floats = npt.NDArray[np.float64]

_MAX_STEPS: Final = 100
_MAX_HALVINGS: Final = 30
_TOLERANCE: Final = 1e-12


@dataclass(frozen=True)
class Restraint:
    """What holds the coefficients: ridge * (x - centre)**2 / 2 each, and x >= lowest."""

    centre_D: Floats
    ridge_D: Floats
    lowest_D: Floats

    @classmethod
    def none(cls, num_coefficients: int) -> "Restraint":
        """Return the restraint that leaves the coefficients free."""
        zeros = np.zeros(num_coefficients)
        return cls(zeros, zeros, np.full(num_coefficients, -np.inf))


def fit_logistic(
    design_RD: Floats,
    truth_R: npt.NDArray[np.int8],
    weight_R: Floats,
    restraint: Restraint,
    *,
    offset_R: Floats | None = None,
) -> Floats:
    """Return the coefficients x_D that make sigmoid(design x + offset) follow the truth.

    Deterministic: sums are taken in one order, without BLAS.

    Raises:
        PermanentError: if a design, weight or offset is not a number.

    Source:
        Bertsekas 1982, "Projected Newton methods for optimization problems with simple constraints".
    """
    base_R = np.zeros(len(design_RD)) if offset_R is None else offset_R
    if not (
        np.isfinite(design_RD).all() and np.isfinite(weight_R).all() and np.isfinite(base_R).all()
    ):
        raise PermanentError("a logistic fit needs finite scores and weights")
    sign_R = np.where(truth_R == 1, 1.0, -1.0)

    def margin(x_D: Floats) -> Floats:
        scores_R: Floats = sign_R * (np.einsum("rd,d->r", design_RD, x_D) + base_R)
        return scores_R

    def loss(x_D: Floats) -> float:
        penalty = 0.5 * (restraint.ridge_D * (x_D - restraint.centre_D) ** 2).sum()
        return float((weight_R * np.logaddexp(0, -margin(x_D))).sum() + penalty)

    x_D = np.maximum(restraint.centre_D, restraint.lowest_D)
    value = loss(x_D)
    for _ in range(_MAX_STEPS):
        chance_R = 1.0 / (1.0 + np.exp(np.clip(margin(x_D), -500, 500)))
        pull_R = weight_R * sign_R * chance_R
        gradient_D = restraint.ridge_D * (x_D - restraint.centre_D)
        gradient_D = gradient_D - np.einsum("rd,r->d", design_RD, pull_R)
        curved_RD = design_RD * (weight_R * chance_R * (1 - chance_R))[:, None]
        hessian_DD = np.einsum("rd,re->de", curved_RD, design_RD) + np.diag(
            restraint.ridge_D + 1e-9
        )
        free_D = (x_D > restraint.lowest_D) | (gradient_D < 0)
        step_D = np.zeros_like(x_D)
        step_D[free_D] = np.linalg.solve(hessian_DD[np.ix_(free_D, free_D)], -gradient_D[free_D])
        moved_D, moved_value = x_D, value
        for halving in range(_MAX_HALVINGS):
            moved_D = np.maximum(x_D + step_D * 0.5**halving, restraint.lowest_D)
            moved_value = loss(moved_D)
            if moved_value < value:
                break
        if not value - moved_value > _TOLERANCE * max(1.0, abs(value)):
            break
        x_D, value = moved_D, moved_value
    return x_D
