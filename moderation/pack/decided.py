"""What answers lead to: tiers of listings and flags of policies, by the thresholds that travel with the answers.

N rows, P policies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from moderation.gates.deciding import served_thresholds, tiers_of
from moderation.gates.evidence import Answers, Evidence
from moderation.gates.tiers import flagging_threshold

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]


def as_served(evidence: Evidence, caps: Mapping[str, str]) -> Evidence:
    """Return the evidence with recorded traffic decided under the thresholds that `caps` leave, as gates judge it."""
    found = evidence.sets.get("replay")
    if found is None:
        return evidence
    bundle = evidence.sets.get("traffic", found).candidate.thresholds
    thresholds = served_thresholds(found.candidate.thresholds, bundle, caps)
    served = replace(found, candidate=replace(found.candidate, thresholds=thresholds))
    return replace(evidence, sets=dict(evidence.sets) | {"replay": served})


def tiers_NP(answers: Answers, policies: Sequence[str]) -> Integers:
    """Return the tier of each row under each policy, as numbers of `Tier`.

    Raises:
        ValueError: if a probability is no number.
    """
    columns = [
        tiers_of(answers.probability_NP[:, column], answers.thresholds.get(policy, {}))
        for column, policy in enumerate(policies)
    ]
    return np.stack(columns, axis=1)


def held_NP(answers: Answers, policies: Sequence[str]) -> Flags:
    """Return which rows are sent to review or stronger, by policy: what people mean by found, or by flagged."""
    limits = [flagging_threshold(answers, policy) for policy in policies]
    limit_P = np.array([np.inf if limit is None else limit for limit in limits])
    held: Flags = answers.probability_NP >= limit_P
    return held
