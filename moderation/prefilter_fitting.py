"""Chooses the threshold of the behaviour prefilter on rows that its trees had not seen, or keeps it closed.

Violations count by what they stand for: one that a rare audit found weighs as many as nobody looked for. They come in
groups (sellers, campaigns) that go on or are missed together, so that the bound rests on the effective number.

Axes: N rows; V violations of one stratum.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.behaviour_prefilter import (
    PrefilterEvidence,
    StratumEvidence,
    harm_score,
    is_judged,
)
from moderation.errors import InvalidSnapshot
from moderation.precision import (
    PrecisionBound,
    bound_precision,
    flags_needed,
    typical_weight,
    weight_of_an_error,
)
from moderation.serving_rules import BehaviourRules
from moderation.signals import SignalTable
from moderation.snapshot_rows import EVASION, NOT_EVASIVE

EVASIVE: Final = "evasive"
_ROLES: Final = ("train", "tune", "meta", "solve")

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def fit_prefilter(
    signals: SignalTable, behaviour_NF: npt.NDArray[np.float32], rules: BehaviourRules
) -> PrefilterEvidence:
    """Return the highest threshold whose recall is shown for every stratum; closed where one cannot show it.

    From the lowest score of a violation upwards: with k violations below, the threshold is an order statistic, whose
    share of violations below has exactly the Clopper-Pearson bound; the first failure ends the search. New sellers go
    on by rule and count so; rows that lack a feature go on too but count for nothing, as how many lack one is a
    matter of the feature store's day.

    Args:
        signals: behaviour logits out of fold; test rows are left out.
        behaviour_NF: of the same rows, NaN where missing.
        rules: of the contract.

    Raises:
        InvalidSnapshot: if there are not as many rows of behaviour as of signals.
    """
    if len(behaviour_NF) != signals.num_rows:
        raise InvalidSnapshot(
            f"{len(behaviour_NF)} rows of behaviour for {signals.num_rows} of signals"
        )
    sample = _Sample.of(signals, behaviour_NF, rules)
    strata = list(_strata(sample.table))
    limits = [sample.highest_threshold(rows_V) for _, rows_V in strata]
    known = [limit for limit in limits if limit is not None]
    threshold = min(known) if strata and len(known) == len(limits) else None
    if threshold is not None and not np.isfinite(threshold):  # only new sellers violated
        threshold = None
    return PrefilterEvidence(
        policies=signals.policies,
        threshold=threshold,
        new_seller_days=rules.new_seller_days,
        recall=rules.recall,
        confidence=rules.confidence,
        share_let_go=0.0 if threshold is None else sample.share_below(threshold),
        strata=tuple(
            sample.evidence(name, rows_V, threshold, closes=limit is None)
            for (name, rows_V), limit in zip(strata, limits, strict=True)
        ),
    )


def _strata(table: SignalTable) -> Iterator[tuple[str, Integers]]:
    """Yield name and rows of the violations of each policy, and of the evasive ones: none are known as such where the
    data does not name them.
    """
    for column, policy in enumerate(table.policies):
        yield policy, np.flatnonzero(table.truth_NP[:, column] == 1)
    named_N = table.slices.get(EVASION, np.full(table.num_rows, ""))
    hides_N = ~np.isin(np.char.lower(named_N), NOT_EVASIVE)
    yield EVASIVE, np.flatnonzero(hides_N & (table.truth_NP == 1).any(axis=1))


@dataclass(frozen=True)
class _Sample:
    """Rows that the trees had not seen."""

    table: SignalTable
    score_N: Floats
    """Infinite for a new seller, who goes on by rule; NaN where a feature is missing."""

    rules: BehaviourRules

    @classmethod
    def of(
        cls, signals: SignalTable, behaviour_NF: npt.NDArray[np.float32], rules: BehaviourRules
    ) -> "_Sample":
        is_scored_N = (signals.role != "train") | (signals.fold >= 0)
        chosen_N = np.isin(signals.role, _ROLES) & is_scored_N
        table, behaviour_NF = signals.take(chosen_N), behaviour_NF[chosen_N]
        is_known_N = np.isfinite(behaviour_NF).all(axis=1)
        is_known_N &= np.isfinite(table.behaviour_NP).all(axis=1)
        score_N = np.where(is_known_N, np.inf, np.nan)
        rows_R = np.flatnonzero(is_known_N & is_judged(behaviour_NF, rules.new_seller_days))
        score_N[rows_R] = harm_score(table.behaviour_NP[rows_R])
        return cls(table, score_N, rules)

    def highest_threshold(self, rows_V: Integers) -> float | None:
        """Return the highest threshold at which the recall of some violations is shown; None if none is."""
        rows_V = self._known(rows_V)
        best: float | None = None
        if len(rows_V) < self.rules.min_positives:
            return None
        for threshold in np.unique(self.score_N[rows_V]).tolist():
            if self._bound(rows_V, threshold).lower < self.rules.recall:
                break
            best = threshold
        return best

    def evidence(
        self, name: str, rows_V: Integers, threshold: float | None, *, closes: bool
    ) -> StratumEvidence:
        """Return what a threshold does to some violations; without one, what the lowest would do."""
        rows_V, rules = self._known(rows_V), self.rules
        needed = max(flags_needed(rules.recall, rules.confidence) or 0, rules.min_positives)
        groups = len(np.unique(self.table.group[rows_V]))
        if not len(rows_V):
            reason = f"no such violation with known behaviour; {needed} are needed"
            if name == EVASIVE and EVASION not in self.table.slices:
                reason += f", and the data has no attribute {EVASION} that would name them"
            return StratumEvidence(name, 0, 0, 0, 0.0, 0.0, 0.0, needed, reason)
        lowest = float(self.score_N[rows_V].min())
        found = self._bound(rows_V, lowest if threshold is None else threshold)
        reason = ""
        if closes:
            reason = (
                f"{len(rows_V)} violations of {groups} groups, worth {found.effective_n:.0f} independent ones; "
                f"{needed} are needed with none missed"
            )
        elif threshold is None and not np.isfinite(lowest):
            reason = "only new sellers violated, who always go on"
        return StratumEvidence(
            of=name,
            violations=len(rows_V),
            groups=groups,
            missed=found.errors,
            effective_n=found.effective_n,
            recall=found.precision,
            lower_bound=found.lower,
            needed=needed,
            reason=reason,
        )

    def share_below(self, threshold: float) -> float:
        """Return the weighted share of traffic that scores below a threshold."""
        weight_N = self.table.weight
        return float(weight_N[self.score_N < threshold].sum() / weight_N.sum())

    def _known(self, rows_V: Integers) -> Integers:
        known_V: Integers = rows_V[~np.isnan(self.score_N[rows_V])]
        return known_V

    def _bound(self, rows_V: Integers, threshold: float) -> PrecisionBound:
        """Return the recall of some violations at a threshold: of those that go on, what precision is of flags."""
        score_V, weight_V = self.score_N[rows_V], self.table.weight[rows_V]
        nearest = weight_of_an_error(-score_V, np.zeros(len(rows_V), np.int8), weight_V)
        return bound_precision(
            (score_V >= threshold).astype(np.int8),
            weight_V,
            self.table.group[rows_V],
            confidence=self.rules.confidence,
            error_weight=max(nearest, typical_weight(weight_V)),
        )
