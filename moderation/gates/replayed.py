"""Recorded traffic decided again: how many decisions become stronger or weaker, and which.

Yesterday's decision is what was recorded, under the thresholds of that time; today's is the candidate's, under those
that it will be served with: less the tiers that this judgement closes, as the recorded ones are less theirs.
N rows of the set, R of them judged together, G groups.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.evaluation.bootstrap import GroupBootstrap
from moderation.gates.deciding import tiers_of
from moderation.gates.estimates import Estimate, Exact, Proportion, nothing, of_unknown, rows_needed
from moderation.gates.evidence import Flags, Floats, Integers, ScoredSet
from moderation.gates.judging import Context, measure
from moderation.gates.slicing import parts_of_slices
from moderation.gates.tiers import thresholds_after_caps
from moderation.policy import Tier
from moderation.precision import flags_needed
from moderation.release import Gate

MAX_LISTED: Final = 50
"""Changed listings that a check of the whole set names; a check of a slice names a tenth of them."""

_REMEDY: Final = "let the gateway decide traffic, then prove the candidate again"


@measure("decisions_stronger")
def decisions_stronger(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the share of recorded decisions that the candidate makes stronger, per policy and slice value.

    With a tier: the share that newly reaches it, whatever happens above or below.
    """
    yield from _changes(context, gate, 1)


@measure("decisions_weaker")
def decisions_weaker(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the share of recorded decisions that the candidate makes weaker, per policy and slice value.

    With a tier: of the decisions that had reached it, the share that no longer does. Of all decisions it could be no
    more than what a policy holds, and a rare one could lose everything unseen.
    """
    yield from _changes(context, gate, -1)


@dataclass(frozen=True)
class _Moves:
    """What becomes of the decisions under one policy."""

    found: ScoredSet
    column: int
    before_N: Integers
    after_N: Integers

    def could_reach(self, tier: str) -> bool:
        """Return whether a tier or a stronger one was open when the decisions were taken."""
        assert self.found.champion is not None
        recorded = self.found.champion.thresholds.get(self.found.policies[self.column], {})
        return any(Tier[name.upper()] >= Tier[tier.upper()] for name in recorded)

    def had(self, tier: str) -> Flags:
        """Return which decisions were this strong or stronger."""
        held_N: Flags = self.before_N >= int(Tier[tier.upper()])
        return held_N

    def direction(self, tier: str | None) -> Integers:
        """Return 1 where a decision becomes stronger, -1 where weaker; with a tier, where it crosses that one."""
        before_N, after_N = self.before_N, self.after_N
        if tier is not None:
            least = int(Tier[tier.upper()])
            before_N, after_N = (before_N >= least).astype(int), (after_N >= least).astype(int)
        direction_N: Integers = np.sign(after_N - before_N)
        return direction_N

    def listed(self, rows_C: Integers) -> list[dict[str, Any]]:
        """Return changed rows as plain values."""
        found = self.found
        assert found.champion is not None
        was_N = found.champion.probability_NP[:, self.column]
        is_N = found.candidate.probability_NP[:, self.column]
        return [
            {
                "item": str(found.item_id[row]),
                "before": Tier(self.before_N[row]).label,
                "after": Tier(self.after_N[row]).label,
                "probability_before": round(float(was_N[row]), 6),
                "probability_after": round(float(is_N[row]), 6),
            }
            for row in rows_C.tolist()
        ]


def _changes(context: Context, gate: Gate, side: int) -> Iterator[Estimate]:
    found = context.set(gate)
    if found is None or found.champion is None:
        yield nothing("", f"no recorded decisions; {_REMEDY}", needed=gate.min_rows)
        return
    thresholds = thresholds_after_caps(context, found)
    for column, policy in enumerate(found.policies):
        try:
            moves = _Moves(
                found,
                column,
                *(
                    tiers_of(answers.probability_NP[:, column], applied.get(policy, {}))
                    for answers, applied in (
                        (found.champion, found.champion.thresholds),
                        (found.candidate, thresholds),
                    )
                ),
            )
        except ValueError as error:
            yield nothing(policy, str(error))
            continue
        for part in parts_of_slices(found.slices, gate.slices, found.num_rows):
            judged = part.named(policy), np.flatnonzero(part.rows_N)
            estimate = _one(context, gate, side, moves, judged)
            yield from of_unknown(estimate) if part.is_unknown else (estimate,)


def _one(
    context: Context, gate: Gate, side: int, moves: _Moves, part: tuple[str, Integers]
) -> Estimate:
    of, rows_R = part
    if not len(rows_R):
        return nothing(of, "no recorded decision", needed=gate.min_rows)
    found = moves.found
    detail = _detail(gate, moves, rows_R)
    remark = unit = ""
    if side < 0 and gate.tier is not None:
        if not moves.could_reach(gate.tier):
            return Estimate(
                of=of,
                value=0.0,
                spread=Exact(0.0),
                rows=len(rows_R),
                remark=f"{gate.tier} and every stronger tier was closed: nothing could be let through",
                detail=detail,
            )
        rows_R, unit = rows_R[moves.had(gate.tier)[rows_R]], "held decisions"
        if not len(rows_R):
            why = f"no recorded decision was {gate.tier} or stronger"
            return nothing(of, why, needed=gate.min_rows, unit=unit)
    changed_R = moves.direction(gate.tier)[rows_R] == side
    draws = context.draws(found.name).take(rows_R)
    spread = _share(changed_R, found.weight[rows_R], draws, context.contract.risk.min_groups)
    needed = _needed(len(rows_R), spread, gate)
    if unit:
        remark = f"of {len(rows_R)} {unit}, worth {spread.trials:.0f} independent ones"
    return Estimate(
        of=of,
        value=spread.successes / spread.trials,
        spread=spread,
        rows=len(rows_R),
        positives=int(changed_R.sum()),
        needed=None if needed is None else max(needed, gate.min_rows),
        unit=unit or "rows",
        remark=remark,
        detail=detail,
    )


def _detail(gate: Gate, moves: _Moves, rows_R: Integers) -> dict[str, Any]:
    """Return what moved, both ways, for people."""
    direction_R = moves.direction(gate.tier)[rows_R]
    pairs = zip(moves.before_N[rows_R].tolist(), moves.after_N[rows_R].tolist(), strict=True)
    counts = Counter(
        f"{Tier(before).label} > {Tier(after).label}" for before, after in pairs if before != after
    )
    most = MAX_LISTED // 10 if gate.slices else MAX_LISTED
    return {
        "policy": moves.found.policies[moves.column],
        "stronger": int((direction_R == 1).sum()),
        "weaker": int((direction_R == -1).sum()),
        "moves": dict(sorted(counts.items())),
        "changed": moves.listed(_largest(moves, rows_R, direction_R, most)),
    }


def _share(
    changed_R: Flags, weight_R: Floats, draws: GroupBootstrap, min_groups: int
) -> Proportion:
    """Return the weighted share of changed rows with the number of independent rows that would be as informative.

    It lies between the number of groups (all rows of a seller change together) and that of rows. Where nothing or
    everything changed no resample varies, so that the groups are counted: a bootstrap would say that the error is 0. So
    they are where they are worth fewer than `min_groups`: how much a few vary says little of the others.

    Source:
        Korn and Graubard 1998 (exact bounds at the effective number); Kish 1965 (unequal weights).
    """
    total = float(weight_R.sum())
    share = float(weight_R[changed_R].sum()) / total
    weight_G = np.bincount(draws.member_N, weight_R)
    least, most = (total**2 / float((part**2).sum()) for part in (weight_G, weight_R))
    trials = least
    if 0 < share < 1 and least >= min_groups:
        above_B, below_B = draws.sums(weight_R * changed_R), draws.sums(weight_R)
        variance = float((above_B[below_B > 0] / below_B[below_B > 0]).var())
        trials = min(max(share * (1 - share) / variance, least), most) if variance else least
    return Proportion(share * trials, trials)


def _needed(rows: int, spread: Proportion, gate: Gate) -> int | None:
    """Return the rows of this kind that would show the share to be within an upper limit."""
    value = spread.successes / spread.trials
    counted = rows_needed(rows, spread.error, gate.limit - value, gate.confidence)
    if gate.comparator != "at_most" or counted is None:
        return None
    without = flags_needed(1 - gate.limit, gate.confidence) or 0
    return max(counted, math.ceil(without * rows / spread.trials))


def _largest(moves: _Moves, rows_R: Integers, direction_R: Integers, most: int) -> Integers:
    """Return the rows that moved most, both ways: half of either, more of one where the other has fewer."""
    found = moves.found
    assert found.champion is not None
    jump_R = np.abs(moves.after_N[rows_R] - moves.before_N[rows_R])
    apart_NP = found.candidate.probability_NP - found.champion.probability_NP
    order = np.lexsort((-np.abs(apart_NP[rows_R, moves.column]), -jump_R))
    sides = [rows_R[order][direction_R[order] == side] for side in (1, -1)]
    return np.concatenate(_halves(sides, most))


def _halves(sides: Sequence[npt.NDArray[np.int64]], most: int) -> list[npt.NDArray[np.int64]]:
    first, second = (len(side) for side in sides)
    half = most // 2
    taken = min(first, max(half, most - second))
    return [sides[0][:taken], sides[1][: most - taken]]
