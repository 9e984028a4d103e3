"""How far models get in a world: members on frozen features, fitted on what was established, judged on what is true."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from marketplace.audit_rows import AuditRows, Floats
from moderation.boosting import fit_boosting
from moderation.evaluation.metrics import average_precision
from moderation.ngram import fit_ngram

MEMBERS: Final = ("fusion", "image", "text", "ngram", "behaviour")
_TRAIN_SHARE: Final = 0.5
_STACK_SHARE: Final = 0.7
_ROUNDS: Final = 3
_BAD_SHARE: Final = 0.2
_IMAGE_PENALTY: Final = 0.001
_TEXT_PENALTY: Final = 3.0
_FUSION_PENALTY: Final = 0.1
_TEXT_SCALE: Final = 12.0
"""Text embeddings have length 1; this brings them to the spread of standardised image features."""


@dataclass(frozen=True)
class Periods:
    """Rows by time: members fit on the first, the stack on the second, everything is judged on the third."""

    train: npt.NDArray[np.int64]
    stack: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def periods(num_rows: int) -> Periods:
    """Return the periods of a world: half, a fifth, and three tenths to judge on."""
    cuts = [int(num_rows * share) for share in (_TRAIN_SHARE, _STACK_SHARE)]
    train, stack, test = np.split(np.arange(num_rows), cuts)
    return Periods(train, stack, test)


def member_scores(rows: AuditRows, truth_NP: npt.NDArray[np.int8], seed: int) -> dict[str, Floats]:
    """Return the logits of every member for all rows, fitted on the training period.

    Args:
        rows: the world.
        truth_NP: what to learn; -1 is left out. The permutation check hands in another one.
        seed: of the members that draw.
    """
    train = periods(len(truth_NP)).train
    weight_N = 1 / (rows.inclusion_N * rows.propensity_N)
    images = _Images(rows)
    scores = {name: np.zeros(truth_NP.shape) for name in ("image", "text", "fusion")}
    for p in range(truth_NP.shape[1]):
        known = train[truth_NP[train, p] >= 0]
        target, weight = truth_NP[known, p], weight_N[known]
        scores["text"][:, p] = linear(rows.text_ND, known, target, weight, _TEXT_PENALTY)
        image_N, seen_ND = images.fit(known, target, weight)
        scores["image"][:, p] = image_N
        both = np.hstack([seen_ND, rows.text_ND * _TEXT_SCALE])
        scores["fusion"][:, p] = linear(both, known, target, weight, _FUSION_PENALTY)
    ngram = fit_ngram((rows.texts[i] for i in train), truth_NP[train], weight_N[train], seed=seed)
    scores["ngram"] = ngram.logits(rows.texts)
    boosting = fit_boosting(
        rows.behaviour_NF[train],
        truth_NP[train],
        weight_N[train],
        rows.group_N[train],
        seed=seed,
        num_threads=1,
    )
    scores["behaviour"] = boosting.logits(rows.behaviour_NF)
    return scores


def stack(
    rows: AuditRows,
    scores: dict[str, Floats],
    truth_NP: npt.NDArray[np.int8],
    members: Sequence[str] = MEMBERS,
) -> Floats:
    """Return the logits of an ensemble for all rows: a logistic regression on its members' logits."""
    second = periods(len(truth_NP)).stack
    weight_N = 1 / (rows.inclusion_N * rows.propensity_N)
    ensemble_NP = np.zeros(truth_NP.shape)
    for p in range(truth_NP.shape[1]):
        members_NM = np.clip(np.stack([scores[name][:, p] for name in members], 1), -30, 30)
        known = second[truth_NP[second, p] >= 0]
        ensemble_NP[:, p] = linear(members_NM, known, truth_NP[known, p], weight_N[known], 1.0)
    return ensemble_NP


def precision_table(
    rows: AuditRows, scores: dict[str, Floats], select_N: npt.NDArray[np.int64]
) -> dict[str, list[float]]:
    """Return, per column of `scores`, the weighted average precision of each policy among `select_N`."""
    truth_NP, weight_N = rows.truth_NP[select_N], rows.weight_N[select_N]
    return {
        name: [
            average_precision(values[select_N, p], truth_NP[:, p], weight_N)
            for p in range(truth_NP.shape[1])
        ]
        for name, values in scores.items()
    }


def _balanced(target: npt.NDArray[np.int8], weight: Floats) -> Floats:
    """Return weights for fitting: damped, or the few kept ordinary listings would drown the lookalikes."""
    damped = np.sqrt(weight)
    bad, good = damped[target == 1].sum(), damped[target == 0].sum()
    scale = np.where(target == 1, _BAD_SHARE / bad, (1 - _BAD_SHARE) / good)
    balanced: Floats = damped * scale * len(target)
    return balanced


def linear(
    values_ND: npt.NDArray[np.floating],
    known: npt.NDArray[np.int64],
    target: npt.NDArray[np.int8],
    weight: Floats,
    penalty: float,
) -> Floats:
    """Return the logits of all rows under a balanced logistic regression on the `known` ones."""
    if len(np.unique(target)) < 2:
        return np.zeros(len(values_ND))
    model = LogisticRegression(C=penalty, max_iter=300)
    model.fit(values_ND[known], target, sample_weight=_balanced(target, weight))
    return np.asarray(model.decision_function(values_ND), float)


class _Images:
    """Listings as bags of photos: the worst photo decides, and which one that is has to be found."""

    def __init__(self, rows: AuditRows) -> None:
        self._row_I = rows.image_row_I
        self._num_rows = len(rows.inclusion_N)
        scale = rows.image_ID.std(axis=0) + 1e-6
        self._image_ID = (rows.image_ID - rows.image_ID.mean(axis=0)) / scale

    def fit(
        self,
        known: npt.NDArray[np.int64],
        target: npt.NDArray[np.int8],
        weight: Floats,
    ) -> tuple[Floats, npt.NDArray[np.float32]]:
        """Return each listing's score, its worst photo's, and that photo's features (zeros without photos)."""
        target_N, weight_N = np.full(self._num_rows, -1, np.int8), np.zeros(self._num_rows)
        target_N[known], weight_N[known] = target, weight
        chosen_I = target_N[self._row_I] >= 0
        score_I = np.zeros(len(self._row_I))
        for _ in range(_ROUNDS):
            used = np.flatnonzero(chosen_I)
            score_I = linear(
                self._image_ID,
                used,
                target_N[self._row_I[used]],
                weight_N[self._row_I[used]],
                _IMAGE_PENALTY,
            )
            worst_N = self._worst(score_I)
            is_worst_I = np.zeros(len(self._row_I), bool)
            is_worst_I[worst_N[worst_N >= 0]] = True
            target_I = target_N[self._row_I]
            chosen_I = (target_I == 0) | ((target_I == 1) & is_worst_I)
        has = worst_N >= 0
        score_N = np.full(self._num_rows, float(score_I.min(initial=0.0)))
        score_N[has] = score_I[worst_N[has]]
        seen_ND = np.zeros((self._num_rows, self._image_ID.shape[1]), np.float32)
        seen_ND[has] = self._image_ID[worst_N[has]]
        return score_N, seen_ND

    def _worst(self, score_I: Floats) -> npt.NDArray[np.int64]:
        worst_N = np.full(self._num_rows, -1, np.int64)
        order = np.argsort(score_I, kind="stable")
        worst_N[self._row_I[order]] = order
        return worst_N
