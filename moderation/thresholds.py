"""Thresholds that a sample can vouch for: a tier opens where a lower confidence bound of its precision holds.

Rows carry weights and come in groups (sellers, campaigns) that are right or wrong together, so
that the bound rests on the effective number of flags. What a sample cannot certify stays closed
and says how many flags it would take.

Axes: N rows; R flagged rows, those at or above a threshold.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.policy import Policy, Tier
from moderation.precision import (
    PrecisionBound,
    bound_precision,
    errors_allowed,
    flags_needed,
    weight_of_an_error,
)

FORMAT: Final = 1
Status = Literal["certified", "by_share", "closed"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_GRID_STEP: Final = 1.15
"""Each candidate threshold flags some 15 % more rows than the one before: fine enough to lose little reach."""

_FEWEST_FLAGS: Final = 20
"""A tier never rests on fewer flags, whatever its bound."""

_WANTED_POWER: Final = 0.8
_HOPELESS_POWER: Final = 0.01


@dataclass(frozen=True)
class TierEvidence:
    """Why a tier is open or closed."""

    status: Status
    threshold: float | None
    bound: float
    lower_bound: float
    precision: float
    flags: int
    errors: int
    effective_n: float
    share: float
    """Weighted share of traffic at or above the threshold."""

    needed: int | None
    """Effective flags that would certify the bound at the errors seen; None if no number would."""

    reason: str


@dataclass(frozen=True)
class SolvedThresholds:
    """Every tier of one policy with its evidence."""

    policy: str
    confidence: float
    tiers: dict[str, TierEvidence]

    @property
    def enforced_share(self) -> float:
        """Weighted share of traffic at block or stronger; 0 where these are closed."""
        enforcing = (self.tiers[tier.label] for tier in Tier if tier > Tier.REVIEW)
        return max((one.share for one in enforcing if one.threshold is not None), default=0.0)

    @property
    def open(self) -> dict[str, float]:
        """Tier -> smallest probability that opens it; closed tiers are not there."""
        limits = {name: evidence.threshold for name, evidence in self.tiers.items()}
        return {name: limit for name, limit in limits.items() if limit is not None}


def solve_thresholds(
    probability_N: Floats,
    truth_N: npt.NDArray[np.int8],
    weight_N: Floats,
    group_N: Integers,
    policy: Policy,
    confidence: float,
) -> SolvedThresholds:
    """Return the lowest threshold of each tier whose precision the sample can vouch for.

    Candidates are tried from high to low and the first failure ends it: a fixed sequence tested at
    full confidence each keeps the chance of any wrong opening below 1 - `confidence`, however many
    are tried. Where the sequence starts follows from scores, weights and groups alone, never from
    the truth. A tier that cannot open by precision opens by `max_share` if its policy gives one.

    Args:
        probability_N: of rows that neither members nor calibration were fitted on.
        truth_N: 1 violates, 0 does not, -1 unknown (counts as traffic only).
        weight_N: inverse inclusion probabilities.
        group_N: seller and campaign.
        policy: the bounds to meet.
        confidence: one-sided, of each tier.

    Raises:
        InvalidSnapshot: if a probability is not a number or lengths differ.

    Source:
        Angelopoulos et al. 2021, "Learn then Test" (fixed-sequence testing of thresholds).
    """
    lengths = {len(probability_N), len(truth_N), len(weight_N), len(group_N)}
    if len(lengths) > 1 or not np.isfinite(probability_N).all():
        raise InvalidSnapshot(f"{policy.id}: thresholds need a finite probability for every row")
    sample = _Sample.of(probability_N, truth_N, weight_N, group_N)
    tiers: dict[str, TierEvidence] = {}
    ceiling = math.inf
    for tier in (Tier.SUSPEND, Tier.BLOCK, Tier.REVIEW, Tier.TAG):
        bound = policy.tiers.of(tier)
        evidence = sample.certify(bound.precision, confidence)
        if evidence.threshold is None and bound.max_share is not None:
            evidence = sample.open_by_share(bound.max_share, evidence)
        if evidence.threshold is not None:
            # what vouches for a stronger tier vouches for this one too
            ceiling = min(ceiling, evidence.threshold)
            evidence = replace(evidence, threshold=ceiling, share=sample.share_above(ceiling))
        tiers[tier.label] = evidence
    return SolvedThresholds(policy.id, confidence, dict(reversed(tiers.items())))


@dataclass(frozen=True)
class _Sample:
    """Rows in falling order of probability; K of them with known truth."""

    probability_N: Floats
    share_N: Floats
    """Weighted share of traffic down to and including each row."""

    probability_K: Floats
    truth_K: npt.NDArray[np.int8]
    weight_K: Floats
    group_K: Integers
    error_weight: float

    @classmethod
    def of(
        cls,
        probability_N: Floats,
        truth_N: npt.NDArray[np.int8],
        weight_N: Floats,
        group_N: Integers,
    ) -> "_Sample":
        order = np.argsort(-probability_N, kind="stable")
        known = order[truth_N[order] >= 0]
        return cls(
            probability_N=probability_N[order],
            share_N=np.cumsum(weight_N[order]) / weight_N.sum(),
            probability_K=probability_N[known],
            truth_K=truth_N[known],
            weight_K=weight_N[known],
            group_K=group_N[known],
            error_weight=weight_of_an_error(probability_N[known], truth_N[known], weight_N[known]),
        )

    def certify(self, bound: float, confidence: float) -> TierEvidence:
        """Return the evidence of the lowest certified threshold, or of the best try where none is."""
        fewest = flags_needed(bound, confidence)
        grid = [] if fewest is None else self._grid(max(fewest, _FEWEST_FLAGS))
        if not grid:
            reason = f"{len(self.truth_K)} rows with known truth; {fewest} flags are the fewest"
            return TierEvidence(
                "closed", None, bound, 0.0, 0.0, 0, 0, 0.0, 0.0, needed=fewest, reason=reason
            )
        powers = [self._power(num, bound, confidence) for num in grid]
        likely = [index for index, power in enumerate(powers) if power >= _WANTED_POWER]
        hopeless = max(powers) < _HOPELESS_POWER
        start = likely[0] if likely else 0 if hopeless else int(np.argmax(powers))
        best = self._bound(grid[start], confidence)
        if best.lower < bound:
            return self._closed(best, bound, confidence)
        for num in grid[start + 1 :]:
            found = self._bound(num, confidence)
            if found.lower < bound:
                break
            best = found
        threshold = float(self.probability_K[best.flags - 1])
        return self._evidence("certified", threshold, bound, best, needed=None, reason="")

    def open_by_share(self, max_share: float, tried: TierEvidence) -> TierEvidence:
        """Return the tier opened at the largest share of traffic that stays within `max_share`."""
        last_of_tie = np.append(self.probability_N[1:] < self.probability_N[:-1], True)
        within = np.flatnonzero(last_of_tie & (self.share_N <= max_share))
        if not len(within):
            reason = f"{tried.reason}; the highest score alone takes more than {max_share:.2%}"
            return replace(tried, reason=reason)
        threshold = float(self.probability_N[within[-1]])
        reason = f"{tried.reason}; opened for {max_share:.2%} of the traffic"
        return replace(tried, status="by_share", threshold=threshold, reason=reason)

    def share_above(self, threshold: float) -> float:
        """Return the weighted share of traffic at or above a threshold."""
        num = int(np.searchsorted(-self.probability_N, -threshold, side="right"))
        return float(self.share_N[num - 1]) if num else 0.0

    def _grid(self, fewest: int) -> list[int]:
        """Return numbers of flagged rows to try, growing; equal scores are never parted."""
        total = len(self.probability_K)
        num, grid = float(fewest), []
        while num <= total:
            score = self.probability_K[math.ceil(num) - 1]
            grid.append(int(np.searchsorted(-self.probability_K, -score, side="right")))
            num = max(num, grid[-1]) * _GRID_STEP
        return grid

    def _bound(self, num: int, confidence: float) -> PrecisionBound:
        return bound_precision(
            self.truth_K[:num],
            self.weight_K[:num],
            self.group_K[:num],
            confidence=confidence,
            error_weight=self.error_weight,
        )

    def _power(self, num: int, bound: float, confidence: float) -> float:
        """Return the chance that the first `num` rows certify, were their probabilities right.

        One error more than predicted is reckoned with, as calibration is never sure of its last digit.
        """
        everyone_right = bound_precision(
            np.ones(num, np.int8),
            self.weight_K[:num],
            self.group_K[:num],
            confidence=confidence,
            error_weight=self.error_weight,
        )
        trials = int(everyone_right.effective_n + 1e-6)  # 299 may come out as 298.99...
        right = float(self.weight_K[:num] @ self.probability_K[:num])
        expected = right / (float(self.weight_K[:num].sum()) + self.error_weight)
        allowed = errors_allowed(trials, bound, confidence)
        return 0.0 if allowed < 0 else float(special.bdtr(allowed, trials, 1 - expected))

    def _closed(self, best: PrecisionBound, bound: float, confidence: float) -> TierEvidence:
        """Return why nothing opened: too few flags, or a precision that no number of flags mends."""
        threshold = float(self.probability_K[best.flags - 1])
        needed = None
        if best.precision > bound:
            errors = math.ceil((1 - best.precision) * best.effective_n)
            needed = flags_needed(bound, confidence, errors=errors)
        reason = (
            f"precision {best.precision:.4f} of the {best.flags} highest scores is below the bound"
            if needed is None
            else f"{best.flags} flags, worth {best.effective_n:.0f} independent ones; {needed} are needed"
        )
        evidence = self._evidence("closed", threshold, bound, best, needed=needed, reason=reason)
        return replace(evidence, threshold=None)

    def _evidence(
        self,
        status: Status,
        threshold: float,
        bound: float,
        found: PrecisionBound,
        *,
        needed: int | None,
        reason: str,
    ) -> TierEvidence:
        return TierEvidence(
            status=status,
            threshold=threshold,
            bound=bound,
            lower_bound=found.lower,
            precision=found.precision,
            flags=found.flags,
            errors=found.errors,
            effective_n=found.effective_n,
            share=self.share_above(threshold),
            needed=needed,
            reason=reason,
        )


def save_thresholds(path: Path, solved: Sequence[SolvedThresholds]) -> None:
    """Write open thresholds by policy and tier, and the evidence of every tier, as JSON."""
    content = {
        "format": FORMAT,
        "policies": {
            one.policy: {
                "confidence": one.confidence,
                "thresholds": one.open,
                "evidence": {name: asdict(evidence) for name, evidence in one.tiers.items()},
            }
            for one in solved
        },
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False))


def load_solved(path: Path) -> tuple[SolvedThresholds, ...]:
    """Return what `save_thresholds` wrote, with its evidence.

    Raises:
        BundleRejected: if the file is missing, damaged or of another format.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not {FORMAT}")
        return tuple(_read_solved(*item) for item in content["policies"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleRejected(f"{path}: no readable thresholds: {error!r}") from error


def read_thresholds(path: Path) -> dict[str, dict[str, float]]:
    """Return the open tiers alone: policy -> tier -> smallest probability.

    Raises:
        BundleRejected: if the file is missing, damaged or of another format.
    """
    return {one.policy: one.open for one in load_solved(path)}


def _read_solved(policy: str, entry: dict[str, Any]) -> SolvedThresholds:
    tiers = {name: TierEvidence(**fields) for name, fields in entry["evidence"].items()}
    solved = SolvedThresholds(policy, float(entry["confidence"]), tiers)
    if list(tiers) != [tier.label for tier in Tier if tier > Tier.ALLOW]:
        raise ValueError(f"{policy} needs every tier from tag to suspend, has {list(tiers)}")
    if solved.open != entry["thresholds"]:
        raise ValueError(f"{policy}: thresholds and evidence disagree")
    if not all(0 <= limit <= 1 for limit in solved.open.values()):
        raise ValueError(f"{policy}: a threshold is a probability")
    return solved
