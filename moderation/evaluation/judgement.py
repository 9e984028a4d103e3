"""Every figure of one policy on the test rows: ranking, slices, tiers, calibration, missing modalities.

Axes: N test rows with known truth under the policy, M members. All figures are weighted; intervals
resample groups.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.decision import SIGNALS
from moderation.ensemble import Ensemble
from moderation.errors import InvalidSnapshot
from moderation.evaluation import metrics
from moderation.evaluation.bootstrap import (
    DEFAULT_RESAMPLES,
    GroupBootstrap,
    Interval,
    Ranking,
    paired_difference,
)
from moderation.policy import PolicyFile
from moderation.signals import PATTERNS, SignalTable, pattern_name
from moderation.thresholds import SolvedThresholds

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Record = dict[str, Any]

ENSEMBLE: Final = "ensemble"
BASELINE: Final = "keywords and hashes"
EVASIVE: Final = "evasive violations"
_NOT_EVASIVE: Final = ("", "none", "no", "false", "0")
_SEEN_SUFFIX: Final = "_seen"


@dataclass(frozen=True)
class Subject:
    """What is judged: signals, the ensemble and thresholds of one bundle, and where they come from."""

    signals: SignalTable
    """All rows; only those of role `test` are judged."""

    ensemble: Ensemble
    policies: PolicyFile
    solved: Sequence[SolvedThresholds]
    baseline_NP: Floats | None = None
    """Score of keywords and hash matches for the rows of `signals`; NaN outside the test."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """Lineage shown on the page: bundle, snapshot, cut-off, ..."""


@dataclass(frozen=True)
class _Judged:
    """The test rows of one policy, and everything that scores them."""

    table: SignalTable
    truth_N: npt.NDArray[np.int8]
    scores: Mapping[str, Floats]
    """Name -> score of each row; NaN where it cannot answer."""

    probability_N: Floats
    log_odds_N: Floats
    draws: GroupBootstrap

    @property
    def weight_N(self) -> Floats:
        return self.table.weight

    def ranking(self, name: str, rows: Flags) -> Ranking:
        return Ranking.of(
            self.scores[name][rows],
            self.truth_N[rows],
            self.weight_N[rows],
            self.draws.take(rows),
        )

    def average_precision(self, name: str, rows: Flags) -> Record:
        """Return the average precision on rows that the score can answer, with its interval."""
        rows = rows & np.isfinite(self.scores[name])
        ranking, draws = self.ranking(name, rows), self.draws.take(rows)
        interval = Interval.of(ranking.average_precision(), ranking.resampled(draws))
        return asdict(interval) | self.counts(rows)

    def counts(self, rows: Flags) -> Record:
        weight = float(self.weight_N[rows].sum())
        right = float((self.weight_N * self.truth_N)[rows].sum())
        return {
            "rows": int(rows.sum()),
            "positives": int(self.truth_N[rows].sum()),
            "prevalence": right / weight if weight else float("nan"),
        }


def judge_all(
    subject: Subject, *, seed: int, num_resamples: int = DEFAULT_RESAMPLES
) -> dict[str, Record]:
    """Return the figures of every policy by its id.

    Raises:
        InvalidSnapshot: if there is no test row, or the policies disagree.
    """
    if subject.signals.policies != subject.policies.ids:
        raise InvalidSnapshot(
            f"signals are of policies {subject.signals.policies}, expected {subject.policies.ids}"
        )
    is_test = subject.signals.role == "test"
    if not is_test.any():
        raise InvalidSnapshot("no row has the role test: there is nothing to judge the model on")
    table = subject.signals.take(is_test)
    draws = GroupBootstrap.of(table.group, num_resamples=num_resamples, seed=seed)
    baseline_NP = None if subject.baseline_NP is None else subject.baseline_NP[is_test]
    return {
        policy: _judge(subject, _select(subject, table, draws, column, baseline_NP), column)
        for column, policy in enumerate(subject.policies.ids)
    }


def _select(
    subject: Subject,
    table: SignalTable,
    draws: GroupBootstrap,
    column: int,
    baseline_NP: Floats | None,
) -> _Judged:
    signals_NPM, status_NPM = table.natural()
    log_odds_NP = subject.ensemble.log_odds(signals_NPM, status_NPM)
    probability_NP = subject.ensemble.combine(signals_NPM, status_NPM)
    rows = np.flatnonzero(table.truth_NP[:, column] >= 0)
    scores = {name: signals_NPM[rows, column, m] for m, name in enumerate(SIGNALS)}
    if baseline_NP is not None:
        scores[BASELINE] = baseline_NP[rows, column]
    scores[ENSEMBLE] = probability_NP[rows, column]
    return _Judged(
        table=table.take(rows),
        truth_N=table.truth_NP[rows, column],
        scores=scores,
        probability_N=probability_NP[rows, column],
        log_odds_N=log_odds_NP[rows, column],
        draws=draws.take(rows),
    )


def _judge(subject: Subject, judged: _Judged, column: int) -> Record:
    everything = np.ones(len(judged.truth_N), bool)
    solved = subject.solved[column]
    flagged_N = judged.probability_N >= solved.open.get("review", np.inf)
    truth_N, weight_N = judged.truth_N, judged.weight_N
    fpr, tpr, threshold = metrics.roc_points(judged.scores[ENSEMBLE], truth_N, weight_N)
    return judged.counts(everything) | {
        "average_precision": {
            name: judged.average_precision(name, everything) for name in judged.scores
        },
        "against": _against_all(judged, everything),
        "slices": _slices(judged),
        "curve": _curve(judged),
        "tiers": {tier: _tier(judged, solved, tier) for tier in solved.tiers},
        "calibration": _calibration(judged, flagged_N),
        "images": metrics.false_positives_by_images(
            flagged_N, truth_N, weight_N, judged.table.num_images
        ),
        "modalities": _modalities(subject.ensemble, judged, column),
        "roc": [
            list(point)
            for point in zip(fpr.tolist(), tpr.tolist(), threshold.tolist(), strict=True)
        ],
        "confusion": metrics.confusion(flagged_N, truth_N, weight_N),
    }


def _against_all(judged: _Judged, rows: Flags) -> Record:
    return {name: _against(judged, name, rows) for name in judged.scores if name != ENSEMBLE}


def _against(judged: _Judged, name: str, rows: Flags) -> Record:
    """Return the ensemble's lead over another score, both on the rows that the other can answer."""
    rows = rows & np.isfinite(judged.scores[name])
    draws = judged.draws.take(rows)
    lead = paired_difference(judged.ranking(ENSEMBLE, rows), judged.ranking(name, rows), draws)
    verdict = "better" if lead.low > 0 else "worse" if lead.high < 0 else "tie"
    return asdict(lead) | {"rows": int(rows.sum()), "verdict": verdict}


def _slices(judged: _Judged) -> list[Record]:
    """Return the average precision of every score on the slices that tell how far the model carries."""
    rows = []
    for title, chosen in _slice_masks(judged):
        if not (judged.truth_N[chosen] == 1).any():
            continue
        in_full = not title.endswith(("seen", "unseen"))  # intervals of every score cost time
        names = judged.scores if in_full else {BASELINE, ENSEMBLE} & set(judged.scores)
        figures = {name: judged.average_precision(name, chosen) for name in sorted(names)}
        rows.append(
            {
                "slice": title,
                **judged.counts(chosen),
                "average_precision": figures,
                "against": _against_all(judged, chosen) if in_full else {},
            }
        )
    return rows


def _slice_masks(judged: _Judged) -> list[tuple[str, Flags]]:
    negative_N = judged.truth_N == 0
    masks = []
    for name, values in sorted(judged.table.slices.items()):
        if name == "evasion":
            evasive = ~np.isin(np.char.lower(values), _NOT_EVASIVE)
            masks.append((EVASIVE, evasive | negative_N))
            masks.append(("plain violations", ~evasive | negative_N))
        elif name == "hard_negative":
            hard = ~np.isin(np.char.lower(values), _NOT_EVASIVE)
            masks.append(("against hard negatives only", hard | ~negative_N))
        elif name.endswith(_SEEN_SUFFIX):
            what = name.removesuffix(_SEEN_SUFFIX)
            masks += [(f"{what} {value}", values == value) for value in ("seen", "unseen")]
    return masks


def _curve(judged: _Judged) -> Record:
    curve = metrics.precision_recall(judged.scores[ENSEMBLE], judged.truth_N, judged.weight_N)
    return {
        "recall_at_precision": {
            str(bound): metrics.recall_at_precision(curve, bound)
            for bound in (0.5, 0.9, 0.95, 0.99)
        },
        "precision_at_recall": {
            str(share): metrics.precision_at_recall(curve, share) for share in (0.5, 0.8, 0.9)
        },
    }


def _tier(judged: _Judged, solved: SolvedThresholds, tier: str) -> Record:
    """Return a tier's evidence from solving, and what it did on rows that it was not solved on."""
    evidence = asdict(solved.tiers[tier])
    limit = solved.open.get(tier)
    if limit is None:
        return evidence | {"test": None}
    flagged = (judged.probability_N >= limit).astype(np.float64)
    right, weight = judged.weight_N * judged.truth_N, judged.weight_N
    return evidence | {
        "test": {
            "flags": int(flagged.sum()),
            "errors": int((flagged * (judged.truth_N == 0)).sum()),
            "precision": asdict(judged.draws.ratio(flagged * right, flagged * weight)),
            "recall": asdict(judged.draws.ratio(flagged * right, right)),
            "share": asdict(judged.draws.ratio(flagged * weight, weight)),
        }
    }


def _calibration(judged: _Judged, flagged_N: Flags) -> Record:
    truth_N, weight_N, chance_N = judged.truth_N, judged.weight_N, judged.probability_N
    line = metrics.calibration_line(judged.log_odds_N, truth_N, weight_N)
    return asdict(line) | {
        "predicted_over_observed": asdict(
            judged.draws.ratio(weight_N * chance_N, weight_N * truth_N)
        ),
        "predicted_over_observed_in_review": metrics.predicted_over_observed(
            chance_N[flagged_N], truth_N[flagged_N], weight_N[flagged_N]
        ),
        "bins": metrics.reliability_bins(chance_N, truth_N, weight_N),
    }


def _modalities(ensemble: Ensemble, judged: _Judged, column: int) -> list[Record]:
    """Return how well the ensemble does when only some modalities are left, on rows that have them."""
    rows = []
    for bits in PATTERNS:
        signals_RPM, status_RPM, chosen = judged.table.pattern(bits)
        truth_R, weight_R = judged.truth_N[chosen], judged.weight_N[chosen]
        if not len(chosen):
            rows.append({"pattern": pattern_name(bits), "rows": 0, "positives": 0})
            continue
        probability_R = ensemble.combine(signals_RPM, status_RPM)[:, column]
        rows.append(
            {
                "pattern": pattern_name(bits),
                "rows": len(chosen),
                "positives": int(truth_R.sum()),
                "average_precision": metrics.average_precision(probability_R, truth_R, weight_R),
                "predicted_over_observed": metrics.predicted_over_observed(
                    probability_R, truth_R, weight_R
                ),
                "naturally": int((judged.table.available() == bits).sum()),
                "origin": ensemble.fits[bits][column].origin,
            }
        )
    return rows
