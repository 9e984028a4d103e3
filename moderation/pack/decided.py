"""What answers lead to: tiers of listings and flags of policies, by the thresholds that travel with the answers.

N rows, P policies.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moderation.gates.evidence import Answers
from moderation.gates.tiers import flagging_threshold
from moderation.policy import Tier

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def tiers_NP(answers: Answers, policies: Sequence[str]) -> npt.NDArray[np.int8]:
    """Return the tier of each row under each policy, as numbers of `Tier`."""
    found_NP = np.zeros(answers.probability_NP.shape, np.int8)
    for column, policy in enumerate(policies):
        for name, limit in answers.thresholds.get(policy, {}).items():
            reached_N = answers.probability_NP[:, column] >= limit
            tier = np.int8(Tier[name.upper()])
            found_NP[reached_N, column] = np.maximum(found_NP[reached_N, column], tier)
    return found_NP


def held_from_P(answers: Answers, policies: Sequence[str]) -> Floats:
    """Return the smallest probability that sends an upload to review or stronger, by policy; infinite if none does."""
    limits = [flagging_threshold(answers, policy) for policy in policies]
    return np.array([np.inf if limit is None else limit for limit in limits])


def held_NP(answers: Answers, policies: Sequence[str]) -> Flags:
    """Return which rows are sent to review or stronger, by policy: what people mean by found, or by flagged."""
    held: Flags = answers.probability_NP >= held_from_P(answers, policies)
    return held
