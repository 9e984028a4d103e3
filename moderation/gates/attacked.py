"""The candidate under attack: violations that are still found, innocent listings that only a disguise makes suspicious.

A violation counts as found at the threshold from which its own policy reviews, each bundle at its own; an innocent
listing as flagged when any policy reviews it. Every registered attack is one check, so that each is shown to be
withstood, and the reason names it. R attacked rows, B resamples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.attacks.registry import ATTACKS, GATE
from moderation.evaluation.bootstrap import GroupBootstrap
from moderation.gates.estimates import (
    Estimate,
    Proportion,
    Resampled,
    nothing,
    rows_needed,
)
from moderation.gates.judging import Context, measure
from moderation.gates.withstanding import Flags, Withstood, any_of, candidate_and_champion
from moderation.release import Gate

Floats = npt.NDArray[np.float64]

WHITE_BOX: Final = "white_box"


def _per_row(flags_RP: Flags) -> Floats:
    counts_R: Floats = np.add.reduce(flags_RP, axis=1, dtype=np.float64)
    return counts_R


@dataclass(frozen=True)
class _Kind:
    """What is counted: trials of each attacked row, and successes among them."""

    trials: Callable[[Withstood], Floats]
    successes: Callable[[Withstood], Floats]
    unit: str
    none: str
    """What to say where there is no trial."""


_KEPT: Final = _Kind(
    lambda one: _per_row(one.found_RP),
    lambda one: _per_row(one.kept_RP),
    "positives",
    "no violation that it applies to is found before it",
)
_GAINED: Final = _Kind(
    lambda one: one.clear_R.astype(np.float64),
    lambda one: any_of(one.gained_RP).astype(np.float64),
    "rows",
    "no innocent listing that it applies to is clear before it",
)


@dataclass(frozen=True)
class _Share:
    """A share, or a mean of shares, with its resamples."""

    value: float
    values_B: Floats
    trials: float
    """Violations or listings that were tried, over all attacks."""

    distinct: int
    """The same, each once."""

    rows: int
    """Attacked listings."""

    groups: int
    """Sellers and campaigns among them."""

    @property
    def spread(self) -> Proportion:
        """Exact bounds at as many independent trials as the resamples show; where none differs, at one per group."""
        defined = self.values_B[np.isfinite(self.values_B)]
        variance = float(defined.var()) if len(defined) else 0.0
        number = float(self.groups)
        if variance > 0 and 0 < self.value < 1:
            number = min(max(self.value * (1 - self.value) / variance, 1.0), self.trials)
        return Proportion(self.value * number, number)


@measure("worst_recall_kept")
def worst_recall_kept(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per attack the share of violations found before it that are still found, or its gain over the champion."""
    yield from _Taking(context, gate, _KEPT).each()


@measure("mean_recall_kept")
def mean_recall_kept(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the mean over attacks of the share of violations that are still found, or its gain over the champion."""
    yield _Taking(context, gate, _KEPT).mean()


@measure("worst_false_positives_gained")
def worst_false_positives_gained(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per attack the share of clear, innocent listings that it gets flagged, or that beyond the champion's."""
    yield from _Taking(context, gate, _GAINED).each()


@measure("mean_false_positives_gained")
def mean_false_positives_gained(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the mean over attacks of the share of clear, innocent listings that are flagged under them."""
    yield _Taking(context, gate, _GAINED).mean()


@measure("white_box_recall")
def white_box_recall(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield per white-box attack without limits the share of violations found before it that are still found.

    Those within limits are told in the detail and not judged: the champion is not attacked by its own gradients, and no
    undefended model withstands its own, so that no limit on them would be meant.
    """
    yield from _Taking(context, gate, _KEPT).unlimited()


@dataclass(frozen=True)
class _Taking:
    """One gate's figures, as they are taken."""

    context: Context
    gate: Gate
    kind: _Kind

    def each(self) -> Iterator[Estimate]:
        """Yield one estimate per attack, registered or made."""
        pairs = self._pairs()
        if not pairs:
            yield self._missing("no attack was made")
            return
        for name in dict.fromkeys([*ATTACKS, *pairs]):
            if name in pairs:
                mine, other = pairs[name]
                yield self._compared(name, [mine], [other], table_row(mine, other))
            else:
                yield nothing(name, "the attack was not made: take the evidence again")

    def mean(self) -> Estimate:
        """Return one estimate over all attacks; the attacks count alike, however many rows they apply to."""
        pairs = self._pairs()
        if not pairs:
            return self._missing("no attack was made")
        mine, others = zip(*pairs.values(), strict=True)
        return self._compared("", mine, others, {"attacks": len(pairs)})

    def unlimited(self) -> Iterator[Estimate]:
        """Yield one estimate per white-box attack without limits."""
        golden = self.context.evidence.sets.get("golden")
        outcomes = [one for one in self.context.evidence.attacks if one.family == WHITE_BOX]
        if golden is None or not any(math.isinf(one.severity) for one in outcomes):
            yield self._missing("no white-box attack of unlimited strength was made")
            return
        sides = [candidate_and_champion(golden, outcome)[0] for outcome in outcomes]
        limited = [table_row(one, None) for one in sides if math.isfinite(one.outcome.severity)]
        for one in sides:
            if math.isinf(one.outcome.severity):
                detail = table_row(one, None) | {"limited": limited}
                yield self._compared(one.outcome.name, [one], [None], detail)

    def _pairs(self) -> dict[str, tuple[Withstood, Withstood | None]]:
        """Return what both bundles make of each attack at the severity that is judged."""
        golden = self.context.evidence.sets.get("golden")
        if golden is None:
            return {}
        return {
            outcome.name: candidate_and_champion(golden, outcome)
            for outcome in self.context.evidence.attacks
            if outcome.family != WHITE_BOX and outcome.severity == GATE
        }

    def _compared(
        self,
        of: str,
        mine: Sequence[Withstood],
        others: Sequence[Withstood | None],
        detail: dict[str, Any],
    ) -> Estimate:
        share = self._share(mine)
        if isinstance(share, str):
            return self._nothing(of, share)
        value = share.value
        spread: Proportion | Resampled = share.spread
        if self.gate.versus == "champion":
            attacked = [other for other in others if other is not None]
            other = self._share(attacked) if len(attacked) == len(others) else "it was not attacked"
            if isinstance(other, str):
                return self._nothing(of, f"nothing to compare with: of the champion, {other}")
            value -= other.value
            spread = Resampled(value, share.values_B - other.values_B)
        gate = self.gate
        distance = gate.limit - value if gate.comparator == "at_most" else value - gate.limit
        return Estimate(
            of=of,
            value=value,
            spread=spread,
            rows=share.distinct if self.kind.unit == "rows" else share.rows,
            positives=share.distinct if self.kind.unit == "positives" else 0,
            needed=rows_needed(share.distinct, spread.error, distance, gate.confidence),
            unit=self.kind.unit,
            detail=detail,
        )

    def _share(self, sides: Sequence[Withstood]) -> "_Share | str":
        """Return the mean over attacks of a share, or why there is none."""
        if not all(one.is_number for one in sides):
            return "a score is no number"
        sides = [one for one in sides if self.kind.trials(one).any()]
        if not sides:
            return self.kind.none
        draws = self.context.draws("golden")
        values, values_B = [], []
        num_trials = np.zeros(len(draws.member_N))
        total = 0.0
        for one in sides:
            taken = draws.take(one.outcome.row_R)
            trials_R, successes_R = self.kind.trials(one), self.kind.successes(one)
            np.maximum.at(num_trials, one.outcome.row_R, trials_R)
            total += float(trials_R.sum())
            values.append(float(successes_R.sum() / trials_R.sum()))
            values_B.append(_ratios(taken, successes_R, trials_R))
        return _Share(
            value=float(np.mean(values)),
            values_B=np.mean(values_B, axis=0),
            trials=total,
            distinct=int(num_trials.sum()),
            rows=len(np.unique(np.concatenate([one.outcome.row_R for one in sides]))),
            groups=len(np.unique(draws.member_N[num_trials > 0])),
        )

    def _missing(self, why: str) -> Estimate:
        missing = self.context.evidence.missing
        return self._nothing("", missing.get("attacks") or missing.get("golden") or why)

    def _nothing(self, of: str, why: str) -> Estimate:
        least = self.gate.min_rows if self.kind.unit == "rows" else self.gate.min_positives
        return nothing(of, why, needed=max(least, 1), unit=self.kind.unit)


def table_row(mine: Withstood, other: Withstood | None) -> dict[str, Any]:
    """Return the line of an attack in a table, with the champion's beside it; plain values."""
    outcome = mine.outcome
    severity = outcome.severity if math.isfinite(outcome.severity) else "unlimited"
    named = {"attack": outcome.name, "family": outcome.family, "severity": severity}
    return named | mine.row() | {"champion": None if other is None else other.row()}


def _ratios(taken: GroupBootstrap, successes_R: Floats, trials_R: Floats) -> Floats:
    """Return the share in each resample; NaN where it drew no trial."""
    trials_B = taken.sums(trials_R)
    ratios_B = np.full(taken.num_resamples, np.nan)
    np.divide(taken.sums(successes_R), trials_B, out=ratios_B, where=trials_B > 0)
    return ratios_B
