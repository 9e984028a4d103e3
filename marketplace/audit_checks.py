"""The checks of the world's audit: each looks at the rows of a world, and each can fail."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import stats

from marketplace.audit_models import linear, periods
from marketplace.audit_rows import AuditRows, Floats, Log, fold, instant
from marketplace.config import POLICIES
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission

MAX_FEATURE_AUC: Final = 0.8
MAX_SKELETON_SHARE: Final = 0.5
MIN_UNSEEN_SHARE: Final = 0.30
MIN_NEEDS_BOTH: Final = 0.15
MAX_CHANCE_GAP: Final = 0.10
KEYWORD_BAND: Final = (0.10, 0.40)
SINGLE_BAND: Final = (0.45, 0.75)
ENSEMBLE_BAND: Final = (0.65, 0.92)
"""The floor is for the small world of the audit; a world of twice its size reaches .8 and more."""

MIN_FUSION_GAIN: Final = 0.10
SINGLE_MODALITIES: Final = ("image", "words", "behaviour")
"""`words` is what both text members say together."""

UNSEEN: Final = ("asset", "template", "seller", "campaign")

_MIN_SUPPORT: Final = 30
_SKELETON_CONFIDENCE: Final = 0.999
"""Hundreds of skeletons are looked at: an unweighted share counts as high only when chance cannot explain it."""

_PERMUTATIONS: Final = 6
_ERASURES: Final = 4


@dataclass(frozen=True)
class AuditRow:
    """One thing that was checked or measured."""

    check: str
    limit: str
    value: float
    ok: bool


def permute(known_NP: npt.NDArray[np.int8], seed: int) -> list[npt.NDArray[np.int8]]:
    """Return the established truth, shuffled among the rows where it is known, a few times over."""
    rng = np.random.default_rng((seed, 51))
    known = np.flatnonzero((known_NP >= 0).all(axis=1))
    shuffled = []
    for _ in range(_PERMUTATIONS):
        copy_NP = known_NP.copy()
        copy_NP[known] = known_NP[rng.permutation(known)]
        shuffled.append(copy_NP)
    return shuffled


def check_permuted(
    rows: AuditRows, shuffled: Sequence[npt.NDArray[np.int8]], *, seed: int
) -> AuditRow:
    """Check that models fitted on shuffled truth tell nothing about the real one."""
    split = periods(len(rows.truth_NP))
    behaviour_NF = np.nan_to_num(rows.behaviour_NF, nan=-1.0)
    behaviour_NF = (behaviour_NF - behaviour_NF.mean(axis=0)) / (behaviour_NF.std(axis=0) + 1e-6)
    gaps = []
    for truth_NP in shuffled:
        for p in range(truth_NP.shape[1]):
            known = split.train[truth_NP[split.train, p] >= 0]
            for values_ND in (rows.text_ND, behaviour_NF):
                score_N = linear(values_ND, known, truth_NP[known, p], np.ones(len(known)), 0.3)
                gaps.append(_auc(rows, score_N, p, split.test) - 0.5)
    gap = abs(float(np.mean(gaps)))
    return AuditRow(
        "permuted truth: distance of the mean AUC from chance",
        f"<= {MAX_CHANCE_GAP}",
        gap,
        gap <= MAX_CHANCE_GAP,
    )


def check_features(rows: AuditRows) -> list[AuditRow]:
    """Check that no single behaviour feature or listing fact tells a policy's violations from the rest."""
    split = periods(len(rows.truth_NP))
    late = np.concatenate([split.stack, split.test])
    best: dict[str, tuple[float, str]] = {"behaviour": (0.5, ""), "metadata": (0.5, "")}
    for p in range(len(POLICIES)):
        for f, name in enumerate(FEATURE_NAMES):
            found = (_strength(rows, rows.behaviour_NF[:, f], p, late), name)
            best["behaviour"] = max(best["behaviour"], found)
        for name, values_N in rows.metadata.items():
            coded_N = _coded(rows, values_N, p, split.train)
            best["metadata"] = max(best["metadata"], (_strength(rows, coded_N, p, late), name))
    return [
        AuditRow(
            f"AUC of the strongest {kind} feature ({name})",
            f"<= {MAX_FEATURE_AUC}",
            strength,
            strength <= MAX_FEATURE_AUC,
        )
        for kind, (strength, name) in best.items()
    ]


def check_skeletons(rows: AuditRows) -> list[AuditRow]:
    """Check that no title template gives a violation away, in the marketplace and among the kept rows."""
    bad_N = rows.truth_NP.max(axis=1) == 1
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(rows.skeletons):
        members[text].append(row)
    large = [np.array(found) for found in members.values() if len(found) >= _MIN_SUPPORT]
    weighted = max(
        (float(np.average(bad_N[found], weights=rows.weight_N[found])) for found in large),
        default=0.0,
    )
    kept = max(
        (
            float(
                stats.beta.ppf(
                    1 - _SKELETON_CONFIDENCE, bad_N[found].sum() + 0.5, (~bad_N[found]).sum() + 0.5
                )
            )
            for found in large
        ),
        default=0.0,
    )
    limit = f"<= {MAX_SKELETON_SHARE}"
    return [
        AuditRow(
            "highest P(violation | text skeleton)", limit, weighted, weighted <= MAX_SKELETON_SHARE
        ),
        AuditRow("the same among kept rows, lower bound", limit, kept, kept <= MAX_SKELETON_SHARE),
    ]


def check_unseen(rows: AuditRows) -> list[AuditRow]:
    """Check that enough of what the test period shows was never seen in training."""
    split = periods(len(rows.truth_NP))
    checks = []
    for kind in UNSEEN:
        values = rows.slices[kind]
        seen = {values[i] for i in split.train.tolist()}
        shown = {values[i] for i in split.test.tolist()} - {""}
        share = len(shown - seen) / len(shown) if shown else 0.0
        checks.append(
            AuditRow(
                f"share of test {kind}s unseen in training",
                f">= {MIN_UNSEEN_SHARE}",
                share,
                share >= MIN_UNSEEN_SHARE,
            )
        )
    return checks


def check_erasure(
    log: Log,
    behaviour_NF: npt.NDArray[np.float32],
    *,
    refold: Callable[[Log], npt.NDArray[np.float32]] = fold,
) -> AuditRow:
    """Check that features stay what they were when all that became known after the submission is erased."""
    times = [entry.submitted_at for entry in log if isinstance(entry, Submission)]
    differing = 0
    for step in range(1, _ERASURES + 1):
        num_before = len(times) * step // (_ERASURES + 1)
        cut_off = times[num_before - 1] if num_before else times[0]
        again_NF = refold(erase(log, cut_off))
        differing += int(
            not np.array_equal(again_NF[:num_before], behaviour_NF[:num_before], equal_nan=True)
        )
    return AuditRow(
        "cut-offs at which erased truth changes features", "0", differing, differing == 0
    )


def erase(log: Log, cut_off: datetime) -> Log:
    """Return `log` without any truth, report or appeal that became known after `cut_off`."""
    return [entry for entry in log if isinstance(entry, Submission) or instant(entry) <= cut_off]


def check_needs_both(rows: AuditRows) -> AuditRow:
    """Check that enough violations show neither by photo nor by words alone."""
    bad_N = rows.truth_NP.max(axis=1) == 1
    share = float(np.mean([bool(rows.slices["needs_both"][i]) for i in np.flatnonzero(bad_N)]))
    return AuditRow(
        "share of violations that need both modalities",
        f">= {MIN_NEEDS_BOTH}",
        share,
        share >= MIN_NEEDS_BOTH,
    )


def check_precision(precision: Mapping[str, Sequence[float]]) -> list[AuditRow]:
    """Check that the world is neither easy nor hopeless, and that fusing pays."""
    mean = {name: float(np.mean(values)) for name, values in precision.items()}
    single, name = max((mean[name], name) for name in SINGLE_MODALITIES)
    bands = [
        ("weighted AP of keywords", mean["keywords"], KEYWORD_BAND),
        (f"weighted AP of the best single modality ({name})", single, SINGLE_BAND),
        ("weighted AP of the ensemble", mean["ensemble"], ENSEMBLE_BAND),
        ("weighted AP of the oracle", mean["oracle"], (mean["ensemble"], 1.0)),
    ]
    gain = mean["ensemble"] - single
    return [
        *(
            AuditRow(check, f"{low:.2f} to {high:.2f}", value, low <= value <= high)
            for check, value, (low, high) in bands
        ),
        AuditRow(
            "gain of the ensemble over the best single modality",
            f">= {MIN_FUSION_GAIN}",
            gain,
            gain >= MIN_FUSION_GAIN,
        ),
    ]


def _strength(
    rows: AuditRows, values_N: npt.NDArray[np.floating], policy: int, select: npt.NDArray[np.int64]
) -> float:
    auc = _auc(rows, np.nan_to_num(values_N.astype(float), nan=-1.0), policy, select)
    return max(auc, 1 - auc)


def _auc(rows: AuditRows, score_N: Floats, policy: int, select: npt.NDArray[np.int64]) -> float:
    truth_N, weight_N = rows.truth_NP[select, policy], rows.weight_N[select]
    if truth_N.min() == truth_N.max():
        return 0.5
    return weighted_auc(truth_N, score_N[select], weight_N)


def weighted_auc(truth_N: npt.NDArray[np.int8], score_N: Floats, weight_N: Floats) -> float:
    """Return the chance that a violation scores above an honest listing; ties count half.

    >>> weighted_auc(np.array([0, 1, 0]), np.array([0.1, 0.5, 0.5]), np.array([3.0, 1.0, 1.0]))
    0.875
    """
    _, place_N = np.unique(score_N, return_inverse=True)
    good_G = np.bincount(place_N, weights=weight_N * (truth_N == 0))
    bad_G = np.bincount(place_N, weights=weight_N * (truth_N == 1))
    below_G = np.cumsum(good_G) - good_G
    return float((bad_G * (below_G + good_G / 2)).sum() / (good_G.sum() * bad_G.sum()))


def _coded(
    rows: AuditRows, values_N: npt.NDArray[Any], policy: int, train: npt.NDArray[np.int64]
) -> Floats:
    """Return a fact as a number: a category by its rate of violations in the training period."""
    if values_N.dtype.kind == "f":
        return values_N.astype(float)
    weight_N, bad_N = rows.weight_N[train], rows.truth_NP[train, policy]
    total = float(np.average(bad_N, weights=weight_N))
    rates = {}
    for value in np.unique(values_N[train]):
        here = values_N[train] == value
        rates[value] = (bad_N[here] @ weight_N[here] + total) / (weight_N[here].sum() + 1)
    return np.array([rates.get(value, total) for value in values_N])
