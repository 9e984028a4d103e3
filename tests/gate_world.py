"""Scored sets drawn from a simple score model, for tests of gates: no bundle, no listing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moderation.gates.evidence import Answers, Evidence, ScoredSet, digest_rows
from moderation.release import ReleaseContract, load_release

POLICIES = ("weapons", "counterfeit", "spam")
CANDIDATE, CHAMPION = "a" * 64, "b" * 64
CONTRACT = Path(__file__).parents[1] / "policies" / "release.yaml"
THRESHOLDS = {policy: {"review": 0.2, "block": 0.9} for policy in POLICIES}

Floats = npt.NDArray[np.float64]


def contract_of(*gate_ids: str, **changes: Any) -> ReleaseContract:
    """Return the shipped contract with these gates and the objective alone; `changes` apply to each of these."""
    whole = load_release(CONTRACT)
    chosen = [
        gate.model_copy(update=changes) if gate.id in gate_ids else gate
        for gate in whole.gates
        if gate.id in (*gate_ids, whole.promotion.objective)
    ]
    return whole.model_copy(update={"gates": tuple(chosen)})


def scored_set(
    name: str = "golden",
    *,
    num_rows: int = 3_000,
    share: float = 0.12,
    separation: float = 3.5,
    champion_separation: float | None = 3.5,
    seed: int = 0,
) -> ScoredSet:
    """Return a set whose violations score `separation` standard deviations higher, in groups of about three."""
    rng = np.random.default_rng(seed)
    truth_NP = (rng.random((num_rows, len(POLICIES))) < share).astype(np.int8)
    common_NP = rng.normal(size=truth_NP.shape) * 0.6
    group_N = rng.integers(0, num_rows // 3, num_rows)

    def answers(bundle: str, distance: float) -> Answers:
        noise_NP = common_NP + rng.normal(size=truth_NP.shape) * 0.8
        log_odds_NP = noise_NP + truth_NP * distance - 3.0
        return Answers(bundle, 1 / (1 + np.exp(-log_odds_NP)), log_odds_NP, THRESHOLDS)

    item_id = np.array([f"{name}-{row}" for row in range(num_rows)])
    weight_N = np.ones(num_rows)
    violates_N = truth_NP.any(axis=1)
    return ScoredSet(
        name=name,
        digest=digest_rows(item_id, truth_NP, weight_N),
        policies=POLICIES,
        item_id=item_id,
        seller_id=np.array([f"seller-{group}" for group in group_N]),
        group=group_N,
        weight=weight_N,
        truth_NP=truth_NP,
        adjudicated_NP=truth_NP >= 0,
        num_images=rng.integers(0, 3, num_rows),
        candidate=answers(CANDIDATE, separation),
        champion=None if champion_separation is None else answers(CHAMPION, champion_separation),
        slices={
            "language": rng.choice(["en", "de", "pl"], num_rows),
            "region": rng.choice(["north", "south"], num_rows),
            "evasive": np.where(violates_N, rng.choice(["evasive", "plain"], num_rows), ""),
        },
    )


def evidence_of(*sets: ScoredSet, **parts: Any) -> Evidence:
    """Return evidence with these sets; a champion is there if the first set has one."""
    champion = sets[0].champion if sets else None
    fields: dict[str, Any] = {
        "candidate": CANDIDATE,
        "champion": None if champion is None else champion.bundle,
        "policies": POLICIES,
        "sets": {one.name: one for one in sets},
    }
    return Evidence(**(fields | parts))


def with_candidate(found: ScoredSet, log_odds_NP: Floats) -> ScoredSet:
    """Return the set with other answers of the candidate."""
    answers = replace(
        found.candidate, log_odds_NP=log_odds_NP, probability_NP=1 / (1 + np.exp(-log_odds_NP))
    )
    return replace(found, candidate=answers)


def with_rows(found: ScoredSet, rows: npt.NDArray[np.int64]) -> ScoredSet:
    """Return some rows of a set without a champion."""
    answers = replace(
        found.candidate,
        probability_NP=found.candidate.probability_NP[rows],
        log_odds_NP=found.candidate.log_odds_NP[rows],
    )
    columns = (
        "item_id",
        "seller_id",
        "group",
        "weight",
        "truth_NP",
        "adjudicated_NP",
        "num_images",
    )
    chosen = {name: getattr(found, name)[rows] for name in columns}
    slices = {name: values[rows] for name, values in found.slices.items()}
    return replace(found, candidate=answers, slices=slices, **chosen)
