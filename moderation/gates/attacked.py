"""The candidate under attack: violations that are still found, innocent listings that only a disguise makes suspicious.

A violation counts as found at the threshold from which its own policy reviews, each bundle at its own; an innocent
listing as flagged when any policy reviews it. Every registered attack is one check, so that each is shown to be
withstood, and the reason names it. R attacked rows, B resamples.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from moderation.gates.withstanding import (
    Flags,
    Withstood,
    any_of,
    candidate_and_champion,
    table_row,
)
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


def _kept_of(column: int) -> _Kind:
    """Return recall kept of one policy."""
    return replace(
        _KEPT,
        trials=lambda one: one.found_RP[:, column].astype(np.float64),
        successes=lambda one: one.kept_RP[:, column].astype(np.float64),
    )


@dataclass(frozen=True)
class _Side:
    """One bundle under one attack, counted."""

    withstood: Withstood
    trials_R: Floats
    successes_R: Floats
    ratios_B: Floats
    """Successes over trials in each resample; NaN where it drew no trial, or none was drawn."""

    @property
    def num_trials(self) -> float:
        return float(self.trials_R.sum())

    @property
    def ratio(self) -> float:
        return float(self.successes_R.sum()) / self.num_trials


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


@measure("worst_recall_kept_by_policy")
def worst_recall_kept_by_policy(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the same per policy and attack: over all policies, one that an attack wipes out is outweighed by others."""
    for column, policy in enumerate(context.evidence.policies):
        for estimate in _Taking(context, gate, _kept_of(column)).each():
            yield replace(estimate, of=f"{policy} · {estimate.of}" if estimate.of else policy)


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
                yield self._compared(name, [mine], [other], _row_of(mine, other))
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
        sides = self._counted([candidate_and_champion(golden, one)[0] for one in outcomes])
        bounded = [side for side in sides if math.isfinite(side.withstood.outcome.severity)]
        limited = [_row_of(side, None) for side in bounded]
        for side in sides:
            if math.isinf(side.withstood.outcome.severity):
                detail = _row_of(side, None) | {"limited": limited}
                yield self._compared(side.withstood.outcome.name, [side], [None], detail)

    def _pairs(self) -> dict[str, tuple[_Side, _Side | None]]:
        """Return what candidate and champion make of each attack at the severity that is judged."""
        golden = self.context.evidence.sets.get("golden")
        outcomes = [
            one
            for one in self.context.evidence.attacks
            if one.family != WHITE_BOX and one.severity == GATE
        ]
        if golden is None or not outcomes:
            return {}
        pairs = [candidate_and_champion(golden, outcome) for outcome in outcomes]
        mine = self._counted([one for one, _ in pairs])
        theirs = [other for _, other in pairs if other is not None]
        others = iter(self._counted(theirs, resample=self.gate.versus == "champion"))
        return {
            one.name: (side, None if other is None else next(others))
            for one, side, (_, other) in zip(outcomes, mine, pairs, strict=True)
        }

    def _counted(self, sides: Sequence[Withstood], *, resample: bool = True) -> list[_Side]:
        """Return the counts of each, all resampled in one pass over the draws."""
        draws = self.context.draws("golden")
        trials = [self.kind.trials(one) for one in sides]
        successes = [self.kind.successes(one) for one in sides]
        ratios_SB = np.full((len(sides), draws.num_resamples), np.nan)
        if resample:
            rows = [one.outcome.row_R for one in sides]
            above_SB, below_SB = np.split(_sums(draws, rows * 2, successes + trials), 2)
            np.divide(above_SB, below_SB, out=ratios_SB, where=below_SB > 0)
        return [_Side(*parts) for parts in zip(sides, trials, successes, ratios_SB, strict=True)]

    def _compared(
        self,
        of: str,
        mine: Sequence[_Side],
        others: Sequence[_Side | None],
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

    def _share(self, sides: Sequence[_Side]) -> _Share | str:
        """Return the mean over attacks of a share, or why there is none."""
        if not all(side.withstood.is_number for side in sides):
            return "a score is no number"
        sides = [side for side in sides if side.num_trials]
        if not sides:
            return self.kind.none
        member_N = self.context.draws("golden").member_N
        most_N = np.zeros(len(member_N))
        for side in sides:
            np.maximum.at(most_N, side.withstood.outcome.row_R, side.trials_R)
        return _Share(
            value=float(np.mean([side.ratio for side in sides])),
            values_B=np.mean([side.ratios_B for side in sides], axis=0),
            trials=sum(side.num_trials for side in sides),
            distinct=int(most_N.sum()),
            rows=len(np.unique(np.concatenate([s.withstood.outcome.row_R for s in sides]))),
            groups=len(np.unique(member_N[most_N > 0])),
        )

    def _missing(self, why: str) -> Estimate:
        missing = self.context.evidence.missing
        return self._nothing("", missing.get("attacks") or missing.get("golden") or why)

    def _nothing(self, of: str, why: str) -> Estimate:
        least = self.gate.min_rows if self.kind.unit == "rows" else self.gate.min_positives
        return nothing(of, why, needed=max(least, 1), unit=self.kind.unit)


def _row_of(mine: _Side, other: _Side | None) -> dict[str, Any]:
    return table_row(mine.withstood, None if other is None else other.withstood)


def _sums(
    draws: GroupBootstrap, rows: Sequence[npt.NDArray[np.int64]], values: Sequence[Floats]
) -> Floats:
    """Return sums_SB: of each values_R at its rows of the set, in each resample."""
    values_SG = np.zeros((len(rows), len(draws.draws_GB)))
    for sums_G, row_R, values_R in zip(values_SG, rows, values, strict=True):
        np.add.at(sums_G, draws.member_N[row_R], values_R)
    sums_SB = np.empty((len(rows), draws.num_resamples))
    for part, draws_GC in draws.chunks(len(draws.draws_GB)):
        sums_SB[:, part] = values_SG @ draws_GC
    return sums_SB
