"""What a candidate flags that no earlier decision had held: reviewers never saw it, and random audits see little of it.

F flagged rows of the replay.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from moderation.gates.estimates import Estimate, Proportion, Spread
from moderation.gates.evidence import ScoredSet
from moderation.gates.flagged import Flagged
from moderation.policy import Tier
from moderation.precision import bound_precision, flags_needed, typical_weight
from moderation.release import Gate

_HOLDS: Final = Tier.REVIEW
"""From this tier on a listing is looked at, or audited often."""


@dataclass(frozen=True)
class HeldBefore:
    """Which of the candidate's flags among replayed decisions had been held."""

    share: Proportion
    flags: int
    new: int
    """Flags of listings that had been let through."""


@dataclass(frozen=True)
class Guarded:
    """A precision that wrong flags of listings once let through cannot have flattered.

    It is shown in either of two ways. By audits: as many flags were seen as it takes if one more wrong one weighs what
    a listing does that was let through. Or by replay: wrong is all that the recorded decisions had let through.

    Source:
        Manski 1989, "Anatomy of the selection problem" (bounds without an assumption on what is missing).
    """

    seen: Spread
    """One more wrong flag weighs what reviewed innocents do."""

    audited: Spread
    """One more wrong flag weighs what audited innocents do."""

    held: Proportion | None
    """Share of the flags that had been held; None where no decision can be replayed."""

    def low(self, confidence: float) -> float:
        """Return the lower bound, by audits or by replay, whichever shows more."""
        by_replay = 0.0
        if self.held is not None:
            by_replay = self.seen.low(confidence) * self.held.low(confidence)
        return max(self.audited.low(confidence), by_replay)

    def high(self, confidence: float) -> float:
        """Return the upper bound, with all right that had been let through."""
        return max(self.seen.high(confidence), self.audited.high(confidence))


def held_before(
    replay: ScoredSet | None, policy: str, threshold: float, *, by_seller: bool, confidence: float
) -> HeldBefore | None:
    """Return how much of what the candidate flags had been held by the recorded decisions, under any policy.

    Args:
        replay: recorded decisions, and what the candidate decides; None where there are none.
        policy: under which it flags.
        threshold: smallest probability that it flags.
        by_seller: count flagged sellers, each held as far as its flagged listings were.
        confidence: of the bound that is taken of it.

    Returns:
        None where nothing replayed is flagged, or the candidate has no answer there.
    """
    if replay is None or replay.champion is None or policy not in replay.policies:
        return None
    probability_N = replay.candidate.probability_NP[:, replay.policies.index(policy)]
    row_F = np.flatnonzero(probability_N >= threshold)
    if not len(row_F) or not np.isfinite(probability_N).all():
        return None
    held_F = np.zeros(len(row_F), bool)
    for column, other in enumerate(replay.policies):
        limits = [
            limit
            for name, limit in replay.champion.thresholds.get(other, {}).items()
            if Tier[name.upper()] >= _HOLDS
        ]
        recorded_F = replay.champion.probability_NP[row_F, column]
        held_F |= recorded_F >= min(limits, default=np.inf)
    flags = Flagged(held_F.astype(np.float64), replay.weight[row_F], replay.group[row_F])
    if by_seller:
        flags = flags.of_sellers(replay.seller_id[row_F])
    bound = bound_precision(
        flags.right_R,
        flags.weight_R,
        flags.group_R,
        confidence=confidence,
        error_weight=typical_weight(flags.weight_R),
    )
    share = Proportion(bound.precision * bound.effective_n, bound.effective_n)
    return HeldBefore(share, len(flags.right_R), int((flags.right_R < 1).sum()))


def guarded(
    estimate: Estimate, gate: Gate, audited: Spread, held: HeldBefore | None, one_in: float
) -> Estimate:
    """Return the estimate of a precision with what hides among flags of listings that had been let through.

    Args:
        estimate: where one more wrong flag weighs what reviewed innocents do.
        gate: gives limit and confidence.
        audited: where one more wrong flag weighs what audited innocents do.
        held: how many flags had been held; None where no replay says.
        one_in: so many let through stand behind one that was audited.
    """
    assert estimate.spread is not None
    spread = Guarded(estimate.spread, audited, None if held is None else held.share)
    seen_low = estimate.spread.low(gate.confidence)
    if spread.low(gate.confidence) >= gate.limit or seen_low < gate.limit:
        return replace(estimate, spread=spread)
    told = "no replay shows how many of the flags had been let through"
    if held is not None:
        told = f"{held.new} of {held.flags} replayed flags had been let through"
    return replace(
        estimate,
        spread=spread,
        needed=None if held is None else _replay_needed(gate, seen_low, held),
        unit="replayed flags that had all been held",
        remark=f"{estimate.remark}; {told}, where audits see one in {one_in:.0f}",
    )


def _replay_needed(gate: Gate, seen_low: float, held: HeldBefore) -> int | None:
    """Return how many replayed flags would show enough of them held; None if one is known that was not."""
    if held.new or not 0 < gate.limit < seen_low:
        return None
    fewest = flags_needed(gate.limit / seen_low, gate.confidence)
    per_flag = held.flags / max(held.share.trials, 1e-9)
    return None if fewest is None else math.ceil(fewest * per_flag - 1e-6)
