"""Scores -> tiers, for many rows at once, under the thresholds that will be served.

N rows, P policies.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from moderation.decision import Thresholds, capped
from moderation.policy import Tier

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def tiers_of(probability_N: Floats, thresholds: Mapping[str, float]) -> Integers:
    """Return the tier of each row under one policy, as the number of `Tier`: `decision.tier_of` for many rows.

    Raises:
        ValueError: if a probability is no number.
    """
    if np.isnan(probability_N).any():
        raise ValueError("a probability is a number; a missing score has a status instead")
    tier_N = np.full(len(probability_N), int(Tier.ALLOW), np.int64)
    for name, limit in thresholds.items():
        tier_N = np.maximum(tier_N, np.where(probability_N >= limit, int(Tier[name.upper()]), 0))
    return tier_N


def strongest_tiers(
    probability_NP: Floats, policies: Sequence[str], thresholds: Thresholds
) -> Integers:
    """Return the tier of each row, as a number: the strongest one over all policies.

    Raises:
        ValueError: if a probability is no number.
    """
    columns = [
        tiers_of(probability_NP[:, column], thresholds.get(policy, {}))
        for column, policy in enumerate(policies)
    ]
    strongest: Integers = np.max(columns, axis=0)
    return strongest


def served_thresholds(
    thresholds: Thresholds, bundle: Thresholds, caps: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Return the thresholds that serving applies when `caps` close tiers; overrides stay, as people answer for them.

    >>> bundle = {"spam": {"review": 0.4, "block": 0.9}}
    >>> served_thresholds(bundle, bundle, {"spam": "block"})
    {'spam': {'review': 0.4}}
    >>> served_thresholds({"spam": {"review": 0.4, "block": 0.8}}, bundle, {"spam": "block"})
    {'spam': {'review': 0.4, 'block': 0.8}}

    Args:
        thresholds: that a set was answered under, with the overrides of its time.
        bundle: those of the bundle: what differs from them is an override.
        caps: policy -> weakest tier that is closed.
    """
    closed = capped(bundle, caps)
    return {
        policy: closed.get(policy, {})
        | {
            tier: limit
            for tier, limit in tiers.items()
            if bundle.get(policy, {}).get(tier) != limit
        }
        for policy, tiers in thresholds.items()
    }
