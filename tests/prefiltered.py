"""Prefilters for tests: real trees on two telling features, and a threshold as if a sample had shown it."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from moderation.behaviour_prefilter import Prefilter, PrefilterEvidence, StratumEvidence
from moderation.boosting import fit_boosting
from moderation.features import FEATURE_NAMES
from moderation.release import load_release
from moderation.serving_rules import BehaviourRules
from tests.gate_world import CONTRACT
from tests.toy import POLICIES

RULES: BehaviourRules = load_release(CONTRACT).serving.stage_1.behaviour
AGE, UPLOADS = FEATURE_NAMES.index("seller_age_days"), FEATURE_NAMES.index("submissions_1h")


def behaviours(num_rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return sellers of 3 to 300 days of whom everything is known; half of them upload a lot."""
    rng = np.random.default_rng(seed)
    values_NF = rng.exponential(2.0, (num_rows, len(FEATURE_NAMES))).astype(np.float32)
    values_NF[:, AGE] = rng.uniform(3, 300, num_rows)
    values_NF[:, UPLOADS] = np.where(np.arange(num_rows) % 2, 9.0, 0.0)
    return values_NF


def evidence(threshold: float | None, **changes: object) -> PrefilterEvidence:
    """Return evidence of a prefilter that is open at `threshold`, or closed."""
    reason = "12 violations; 299 are needed" if threshold is None else ""
    fields: dict[str, object] = {
        "policies": POLICIES,
        "threshold": threshold,
        "new_seller_days": 3.0,
        "recall": 0.99,
        "confidence": 0.95,
        "share_let_go": 0.0 if threshold is None else 0.4,
        "strata": (StratumEvidence(POLICIES[0], 400, 350, 0, 340.0, 1.0, 0.9912, 299, reason),),
    }
    return PrefilterEvidence(**(fields | changes))  # type: ignore[arg-type]


def prefilter(threshold: float | None = 0.0) -> Prefilter:
    """Return a prefilter whose trees tell who uploads a lot."""
    values_NF = behaviours(400)
    truth_NP = np.repeat((values_NF[:, [UPLOADS]] > 1).astype(np.int8), len(POLICIES), axis=1)
    model = fit_boosting(
        values_NF, truth_NP, np.ones(400), np.arange(400, dtype=np.int64), seed=1, num_threads=1
    )
    return Prefilter(evidence(threshold), model)


def save(found: Prefilter, folder: Path) -> None:
    """Write the prefilter as a bundle holds it."""
    found.evidence.save(folder / "prefilter.json")
    found.model.save(folder / "behaviour", POLICIES)
