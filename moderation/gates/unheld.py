"""What a candidate flags that no earlier decision had held: reviewers never saw it, and random audits see little of it.

F flagged rows of the replay, J adjudicated rows, I innocent ones of them.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.gates.estimates import Estimate, Proportion, Spread
from moderation.gates.evidence import Flags, Floats, ScoredSet
from moderation.gates.flagged import Flagged
from moderation.policy import Tier
from moderation.precision import bound_precision, flags_needed, typical_weight, weight_of_an_error
from moderation.release import Gate

_HOLDS: Final = Tier.REVIEW
"""From this tier on a listing is looked at, or audited far more often than what is allowed."""

_FAR_LIGHTER: Final = 0.5
"""Of a typical weight: innocents that weigh less were looked at for a reason, and not drawn among what was allowed."""


@dataclass(frozen=True)
class ErrorWeights:
    """What one more wrong flag would weigh."""

    held: float
    """If its listing had been held."""

    let_through: float
    """If it had been let through, and an audit drew it."""


@dataclass(frozen=True)
class HeldBefore:
    """Which of the candidate's flags among replayed decisions had been held."""

    share: Proportion
    flags: int
    new: int
    """Flags of listings that had been let through."""

    unit: str
    """What is counted."""


@dataclass(frozen=True)
class Guarded:
    """A precision that wrong flags of listings once let through cannot have flattered.

    It is shown in either of two ways. By audits: as many flags were seen as it takes if one more wrong one weighs what
    a listing does that was let through. Or by replay: wrong is all that the recorded decisions had let through.

    Source:
        Manski 1989, "Anatomy of the selection problem" (bounds without an assumption on what is missing).
    """

    seen: Spread
    """One more wrong flag weighs what that of a held listing does."""

    audited: Spread
    """One more wrong flag weighs what that of a listing does that was let through."""

    held: Proportion | None
    """Share of the flags that had been held; None where no decision can be replayed."""

    def low(self, confidence: float) -> float:
        """Return the lower bound, by audits or by replay, whichever shows more."""
        by_replay = 0.0
        if self.held is not None:
            by_replay = self.seen.low(confidence) * self.held.low(confidence)
        return max(self.audited.low(confidence), by_replay)

    def high(self, confidence: float) -> float:
        """Return the upper bound of what was seen: a tier that is wrong there is shown wrong."""
        return self.seen.high(confidence)


def error_weights(
    score_J: Floats, truth_J: npt.NDArray[np.int8], weight_J: Floats, is_flag_J: Flags
) -> ErrorWeights:
    """Return what one more wrong flag weighs, by what had become of its listing.

    Args:
        score_J: of the rows with known truth.
        truth_J: 1 or 0.
        weight_J: inverse inclusion probabilities.
        is_flag_J: which of them are flagged; it may be of the kind of these that weigh most.
    """
    innocent_I = weight_J[truth_J == 0]
    border = _FAR_LIGHTER * typical_weight(innocent_I)
    is_held_J = weight_J < border
    of_held = 1.0
    if (is_held_J & (truth_J == 0)).any():
        of_held = weight_of_an_error(score_J[is_held_J], truth_J[is_held_J], weight_J[is_held_J])
    elif not is_held_J.any():
        of_held = weight_of_an_error(score_J, truth_J, weight_J)
    of_held = max(of_held, _heavy_weight(weight_J[is_flag_J]))
    return ErrorWeights(of_held, max(_heavy_weight(innocent_I), of_held))


def _heavy_weight(weight_R: Floats) -> float:
    """Return the typical weight of rows, less those that are far lighter; 1 without any row."""
    return typical_weight(weight_R[weight_R >= _FAR_LIGHTER * typical_weight(weight_R)])


def held_before(
    replay: ScoredSet | None, policy: str, threshold: float, *, by_seller: bool, confidence: float
) -> HeldBefore | None:
    """Return how much of what the candidate flags the recorded decisions had held, under the same policy.

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
    column = replay.policies.index(policy)
    probability_N = replay.candidate.probability_NP[:, column]
    row_F = np.flatnonzero(probability_N >= threshold)
    if not len(row_F) or not np.isfinite(probability_N).all():
        return None
    tiers = replay.champion.thresholds.get(policy, {})
    least = min(
        (limit for name, limit in tiers.items() if Tier[name.upper()] >= _HOLDS), default=np.inf
    )
    held_F = replay.champion.probability_NP[row_F, column] >= least
    flags = Flagged(held_F.astype(np.float64), replay.weight[row_F], replay.group[row_F])
    # A new flag is of few listings, or of one, and seen as seldom as its listings are.
    of_new = typical_weight(replay.weight[row_F])
    if by_seller:
        flags = flags.of_sellers(replay.seller_id[row_F])
    bound = bound_precision(
        flags.right_R, flags.weight_R, flags.group_R, confidence=confidence, error_weight=of_new
    )
    return HeldBefore(
        share=Proportion(bound.precision * bound.effective_n, bound.effective_n),
        flags=len(flags.right_R),
        new=int((flags.right_R < 1).sum()),
        unit="replayed sellers" if by_seller else "replayed flags",
    )


def guarded(
    estimate: Estimate, gate: Gate, audited: Spread, held: HeldBefore | None, weights: ErrorWeights
) -> Estimate:
    """Return the estimate of a precision with what hides among flags of listings that had been let through.

    Args:
        estimate: where one more wrong flag weighs what that of a held listing does.
        gate: gives limit and confidence.
        audited: where one more wrong flag weighs what that of a listing does that was let through.
        held: how many flags had been held; None where no replay says.
        weights: of one more wrong flag.
    """
    assert estimate.spread is not None
    spread = Guarded(estimate.spread, audited, None if held is None else held.share)
    seen_low = estimate.spread.low(gate.confidence)
    if spread.low(gate.confidence) >= gate.limit or seen_low < gate.limit:
        return replace(estimate, spread=spread)
    said = "audits see none of what had been let through"
    if math.isfinite(weights.let_through):
        said = f"audits see one in {weights.let_through:.0f} of what had been let through"
    if held is None:
        told, needed, unit = "no replay shows how many of the flags are of that", None, "rows"
    else:
        told = f"{held.new} of {held.flags} {held.unit} are of that"
        needed, unit = _replay_needed(gate, seen_low, held), f"{held.unit}, no further one new"
    return replace(
        estimate,
        spread=spread,
        needed=needed,
        unit=unit,
        remark=f"{estimate.remark}; {said}, and {told}",
    )


def _replay_needed(gate: Gate, seen_low: float, held: HeldBefore) -> int | None:
    """Return how many replayed flags would show enough of them held, with no more new ones; None if no number would."""
    if not 0 < gate.limit < seen_low:
        return None
    new = math.ceil(held.share.trials - held.share.successes - 1e-6)
    fewest = flags_needed(gate.limit / seen_low, gate.confidence, errors=new)
    per_flag = held.flags / max(held.share.trials, 1e-9)
    return None if fewest is None else math.ceil(fewest * per_flag - 1e-6)
