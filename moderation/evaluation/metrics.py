"""Weighted metrics of scores against truth, on rows that stand for unequal shares of the traffic.

Axes: N rows; truth is 1 or 0 (unknown rows are left out beforehand), weights are positive.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moderation.logistic import Restraint, fit_logistic

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Truth = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Curve:
    """Precision and recall at each score that some violation has, from the highest down."""

    score: Floats
    precision: Floats
    recall: Floats


@dataclass(frozen=True)
class CalibrationLine:
    """How truth follows the log-odds: slope 1 and intercept 0 are perfect."""

    slope: float
    intercept: float
    """With the slope fitted."""

    shift: float
    """With the slope held at 1: how far all log-odds are off."""


def precision_recall(score_N: Floats, truth_N: Truth, weight_N: Floats) -> Curve:
    """Return precision and recall where recall changes; equal scores are taken together.

    >>> curve = precision_recall(np.array([3., 2., 1.]), np.array([1, 0, 1]), np.ones(3))
    >>> curve.precision.round(3).tolist(), curve.recall.tolist()
    ([1.0, 0.667], [0.5, 1.0])
    """
    order = np.argsort(-score_N, kind="stable")
    score, right, weight = score_N[order], weight_N[order] * truth_N[order], weight_N[order]
    last = np.append(score[1:] < score[:-1], True)[: len(score)]
    flagged, found = np.cumsum(weight)[last], np.cumsum(right)[last]
    rises = np.diff(found, prepend=0.0) > 0
    total = max(float(right.sum()), 1e-300)
    return Curve(score[last][rises], (found / flagged)[rises], (found / total)[rises])


def average_precision(score_N: Floats, truth_N: Truth, weight_N: Floats) -> float:
    """Return the weighted area under the step-wise precision-recall curve; NaN without a violation.

    >>> average_precision(np.array([3., 2., 1.]), np.array([1, 0, 1]), np.array([1., 2., 1.]))
    0.75

    Source:
        Boyd et al. 2013, "Area under the precision-recall curve": no interpolation between steps.
    """
    curve = precision_recall(score_N, truth_N, weight_N)
    if not len(curve.recall):
        return float("nan")
    return float((np.diff(curve.recall, prepend=0.0) * curve.precision).sum())


def recall_at_precision(curve: Curve, precision: float) -> float:
    """Return the largest recall whose precision reaches a bound; 0 where none does.

    >>> recall_at_precision(Curve(np.ones(2), np.array([1., .6]), np.array([.5, 1.])), 0.9)
    0.5
    """
    return float(curve.recall[curve.precision >= precision].max(initial=0.0))


def precision_at_recall(curve: Curve, recall: float) -> float:
    """Return the best precision among thresholds that find at least a share of the violations.

    >>> precision_at_recall(Curve(np.ones(2), np.array([1., .6]), np.array([.5, 1.])), 0.8)
    0.6
    """
    return float(curve.precision[curve.recall >= recall - 1e-12].max(initial=0.0))


def roc_points(
    score_N: Floats, truth_N: Truth, weight_N: Floats, *, max_points: int = 200
) -> tuple[Floats, Floats, Floats]:
    """Return false- and true-positive rates and thresholds, rising, at most `max_points` of them.

    >>> fpr, tpr, _ = roc_points(np.array([3., 2., 1.]), np.array([1, 0, 1]), np.ones(3))
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    order = np.argsort(-score_N, kind="stable")
    score, weight, truth = score_N[order], weight_N[order], truth_N[order]
    last = np.append(score[1:] < score[:-1], True)[: len(score)]
    true = np.cumsum(weight * (truth == 1))[last]
    false = np.cumsum(weight * (truth == 0))[last]
    tpr = np.append(0.0, true / max(float(true[-1]), 1e-300))
    fpr = np.append(0.0, false / max(float(false[-1]), 1e-300))
    threshold = np.append(score[:1] + 1, score[last])
    # Evenly along the curve's length, not along rows: its steep beginning is what matters at 1:1000.
    length = tpr + fpr
    wanted = np.linspace(0, length[-1], max_points)
    kept = np.unique(np.searchsorted(length, wanted)) if len(tpr) > max_points else slice(None)
    return fpr[kept], tpr[kept], threshold[kept]


def confusion(
    flagged_N: npt.NDArray[np.bool_], truth_N: Truth, weight_N: Floats
) -> list[list[float]]:
    """Return weighted counts as [[true negatives, false positives], [false negatives, true positives]].

    >>> confusion(np.array([True, False]), np.array([1, 1]), np.array([2., 3.]))
    [[0.0, 0.0], [3.0, 2.0]]
    """
    return [
        [float(weight_N[(truth_N == truth) & (flagged_N == flag)].sum()) for flag in (False, True)]
        for truth in (0, 1)
    ]


def predicted_over_observed(probability_N: Floats, truth_N: Truth, weight_N: Floats) -> float:
    """Return expected over counted violations; NaN where none was counted.

    >>> predicted_over_observed(np.array([.5, .5]), np.array([1, 0]), np.ones(2))
    1.0
    """
    observed = float((weight_N * truth_N).sum())
    return float((weight_N * probability_N).sum()) / observed if observed else float("nan")


def calibration_line(log_odds_N: Floats, truth_N: Truth, weight_N: Floats) -> CalibrationLine:
    """Return slope and intercept of the weighted logistic regression of truth on log-odds.

    NaN where a class is absent. At 1:1000 this sees what expected calibration error cannot.

    Source:
        Cox 1958, "Two further applications of a model for binary regression".
    """
    if len(np.unique(truth_N)) < 2:
        return CalibrationLine(float("nan"), float("nan"), float("nan"))
    # Far scores carry no information about the line and would only overflow.
    clipped_N = np.clip(log_odds_N, -30, 30)
    ones_N1 = np.ones((len(clipped_N), 1))
    design_N2 = np.concatenate([clipped_N[:, None], ones_N1], axis=1)
    scale_N = weight_N / weight_N.mean()
    slope, intercept = fit_logistic(design_N2, truth_N, scale_N, Restraint.none(2))
    (shift,) = fit_logistic(ones_N1, truth_N, scale_N, Restraint.none(1), offset_R=clipped_N)
    return CalibrationLine(float(slope), float(intercept), float(shift))


def reliability_bins(
    probability_N: Floats, truth_N: Truth, weight_N: Floats, *, num_bins: int = 12
) -> list[dict[str, float]]:
    """Return predicted and observed rates in bins that hold equal numbers of violations expected.

    Equal-width bins would put everything into the first at 1:1000.
    """
    order = np.argsort(probability_N, kind="stable")
    expected = np.cumsum((weight_N * probability_N)[order])
    cuts = np.searchsorted(expected, np.linspace(0, expected[-1], num_bins + 1)[1:-1])
    bins = []
    for rows in np.split(order, np.unique(cuts)):
        if not len(rows):
            continue
        weight = float(weight_N[rows].sum())
        bins.append(
            {
                "predicted": float((weight_N[rows] * probability_N[rows]).sum()) / weight,
                "observed": float((weight_N[rows] * truth_N[rows]).sum()) / weight,
                "rows": float(len(rows)),
                "positives": float(truth_N[rows].sum()),
            }
        )
    return bins


def false_positives_by_images(
    flagged_N: npt.NDArray[np.bool_], truth_N: Truth, weight_N: Floats, num_images_N: Integers
) -> list[dict[str, Any]]:
    """Return the weighted false-positive rate for each number of images that occurs.

    The worst image decides, and the maximum of eight has more chances to be wrong than one.
    """
    rows = []
    for count in np.unique(num_images_N).tolist():
        chosen = (num_images_N == count) & (truth_N == 0)
        weight = float(weight_N[chosen].sum())
        flagged = float(weight_N[chosen & flagged_N].sum())
        rows.append(
            {
                "images": int(count),
                "negatives": int(chosen.sum()),
                "false_flags": int((chosen & flagged_N).sum()),
                "fpr": flagged / weight if weight else float("nan"),
            }
        )
    return rows
