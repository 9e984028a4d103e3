"""What one bundle makes of the golden set under one attack: what it still finds, whom it flags, what failed.

R attacked rows, P policies.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from moderation.attacks.hard_examples import HardExample
from moderation.gates.evidence import Answers, AttackOutcome, Evidence, ScoredSet
from moderation.gates.tiers import flagging_threshold

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def any_of(flags_RP: Flags) -> Flags:
    """Return which rows have a flag under any policy: flags_R."""
    flags_R: Flags = np.logical_or.reduce(flags_RP, axis=1)
    return flags_R


@dataclass(frozen=True)
class Withstood:
    """What one bundle makes of the rows under one attack."""

    golden: ScoredSet
    answers: Answers
    outcome: AttackOutcome
    after_RP: Floats

    @cached_property
    def limit_P(self) -> Floats:
        """The smallest probability that is reviewed, by policy; infinite where nothing is."""
        limits = [flagging_threshold(self.answers, policy) for policy in self.golden.policies]
        return np.array([np.inf if limit is None else limit for limit in limits])

    @cached_property
    def before_RP(self) -> Floats:
        """Probabilities of the same rows without the attack."""
        return self.answers.probability_NP[self.outcome.row_R]

    @cached_property
    def violates_RP(self) -> Flags:
        """Violations, one per row and policy."""
        violates_RP: Flags = self.golden.truth_NP[self.outcome.row_R] == 1
        return violates_RP

    @cached_property
    def obeys_RP(self) -> Flags:
        """Known not to violate, one per row and policy."""
        obeys_RP: Flags = self.golden.truth_NP[self.outcome.row_R] == 0
        return obeys_RP

    @cached_property
    def found_RP(self) -> Flags:
        """Violations that were found before the attack."""
        return self.violates_RP & (self.before_RP >= self.limit_P)

    @cached_property
    def kept_RP(self) -> Flags:
        """Violations that were found before the attack, and still are."""
        return self.found_RP & (self.after_RP >= self.limit_P)

    @cached_property
    def clear_R(self) -> Flags:
        """Rows that violate nothing as far as is known, and were not flagged before the attack."""
        was_flagged_RP = self.obeys_RP & (self.before_RP >= self.limit_P)
        return any_of(self.obeys_RP) & ~any_of(self.violates_RP) & ~any_of(was_flagged_RP)

    @cached_property
    def gained_RP(self) -> Flags:
        """Rows that were clear and are flagged under a policy that they are known not to violate."""
        return self.clear_R[:, None] & self.obeys_RP & (self.after_RP >= self.limit_P)

    @cached_property
    def is_number(self) -> bool:
        """Whether every score is one: what is no number is neither found nor clear."""
        return bool(np.isfinite(self.after_RP).all() and np.isfinite(self.before_RP).all())

    def row(self) -> dict[str, Any]:
        """Return the attack's line of a table; None where there is nothing to take a share of."""
        violates_RP, found_RP, kept_RP = self.violates_RP, self.found_RP, self.kept_RP
        shift_RP = (self.after_RP - self.before_RP)[violates_RP]
        after_RP = violates_RP & (self.after_RP >= self.limit_P)
        return {
            "violations": int(violates_RP.sum()),
            "recall_before": _share(found_RP[violates_RP]),
            "recall_after": _share(after_RP[violates_RP]),
            "kept": _share(kept_RP[found_RP]),
            "kept_by_policy": {
                policy: _share(kept_RP[:, column][found_RP[:, column]])
                for column, policy in enumerate(self.golden.policies)
            },
            "innocents": int(self.clear_R.sum()),
            "gained": _share(any_of(self.gained_RP)[self.clear_R]),
            "shift": float(shift_RP.mean()) if len(shift_RP) and self.is_number else None,
        }


def candidate_and_champion(
    golden: ScoredSet, outcome: AttackOutcome
) -> tuple[Withstood, Withstood | None]:
    """Return what either makes of an attack; None where there is no champion, or it was not attacked."""
    mine = Withstood(golden, golden.candidate, outcome, outcome.candidate_RP)
    if golden.champion is None or outcome.champion_RP is None:
        return mine, None
    return mine, Withstood(golden, golden.champion, outcome, outcome.champion_RP)


def table_row(mine: Withstood, other: Withstood | None) -> dict[str, Any]:
    """Return the line of an attack in a table, with the champion's beside it; plain values."""
    outcome = mine.outcome
    severity = outcome.severity if math.isfinite(outcome.severity) else "unlimited"
    named = {"attack": outcome.name, "family": outcome.family, "severity": severity}
    return named | mine.row() | {"champion": None if other is None else other.row()}


def hard_examples(evidence: Evidence) -> list[HardExample]:
    """Return what the candidate gets wrong only under attack: violations lost, innocents flagged; the worst first."""
    golden = evidence.sets.get("golden")
    if golden is None:
        return []
    found: list[HardExample] = []
    for outcome in evidence.attacks:
        if math.isfinite(outcome.severity):
            one, _ = candidate_and_champion(golden, outcome)
            found += _failed(one, one.found_RP & ~one.kept_RP, truth=1)
            found += _failed(one, one.gained_RP, truth=0)
    return sorted(
        found, key=lambda one: (-abs(one.after - one.before), one.submission_id, one.attack)
    )


def _failed(one: Withstood, failed_RP: Flags, *, truth: Literal[0, 1]) -> Iterable[HardExample]:
    golden, outcome = one.golden, one.outcome
    for place, column in zip(*np.nonzero(failed_RP), strict=True):
        row = int(outcome.row_R[place])
        yield HardExample(
            submission_id=str(golden.item_id[row]),
            policy=golden.policies[column],
            truth=truth,
            bundle=one.answers.bundle,
            attack=outcome.name,
            family=outcome.family,
            severity=outcome.severity,
            before=float(one.before_RP[place, column]),
            after=float(one.after_RP[place, column]),
            like={name: str(values[row]) for name, values in golden.slices.items() if values[row]},
        )


def _share(flags: Flags) -> float | None:
    return float(flags.mean()) if flags.size else None
