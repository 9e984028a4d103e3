"""Evidence of candidates as a marketplace would see them, drawn from a simple score model: for tests of the pack."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from moderation.attacks.registry import ATTACKS, GATE
from moderation.gates import attacked, measures
from moderation.gates.evidence import (
    Answers,
    AttackOutcome,
    Costs,
    Evidence,
    ScoredSet,
    digest_rows,
)
from moderation.gates.judging import MEASURES
from moderation.leaks import LeakCheck
from moderation.release import ReleaseContract, load_release
from tests.gate_world import CONTRACT

assert measures
assert attacked
# importing them registers measures and attacks

POLICIES = ("weapons", "counterfeit", "spam")
CANDIDATE, CHAMPION = "c4" * 32, "9a" * 32
THRESHOLDS = {policy: {"tag": 0.05, "review": 0.2, "block": 0.9} for policy in POLICIES}
BROKEN = "pl"
_TRAFFIC_SHARE = 0.008
_PRIOR = np.log(_TRAFFIC_SHARE / (1 - _TRAFFIC_SHARE))

_SLICES = {
    "language": (["en", "de", "pl", "xx"], [0.6, 0.22, 0.17, 0.01]),
    "region": (["north", "south", "east"], [0.5, 0.3, 0.2]),
    "category": (["outdoor", "fashion", "toys", "phones"], [0.3, 0.3, 0.2, 0.2]),
    "seller_age": (["new", "young", "old"], [0.3, 0.3, 0.4]),
    "seller_size": (["small", "medium", "large"], [0.5, 0.3, 0.2]),
    "price_band": (["low", "mid", "high"], [0.34, 0.33, 0.33]),
}
_COSTLY = "calibration-"
"""Gates that resample regressions: seconds each, and shown elsewhere."""

Floats = npt.NDArray[np.float64]


def known_contract(**risk: Any) -> ReleaseContract:
    """Return the shipped contract without gates whose measure is not there, with few resamples."""
    whole = load_release(CONTRACT)
    gates = tuple(
        gate for gate in whole.gates if gate.measure in MEASURES and not gate.id.startswith(_COSTLY)
    )
    changed = whole.risk.model_copy(update={"resamples": 200} | risk)
    return whole.model_copy(update={"gates": gates, "risk": changed})


def good_evidence(*, num_golden: int = 2_000, seed: int = 5) -> Evidence:
    """Return evidence of a candidate that is better than its champion everywhere."""
    rng = np.random.default_rng(seed)
    golden = _scored(rng, "golden", num_golden, share=0.2)
    return Evidence(
        candidate=CANDIDATE,
        champion=CHAMPION,
        policies=POLICIES,
        sets={
            "golden": golden,
            "traffic": _scored(rng, "traffic", 20_000, share=_TRAFFIC_SHARE),
            "replay": _scored(rng, "replay", 3_000, share=_TRAFFIC_SHARE),
        },
        attacks=_attacks(rng, golden),
        leaks=LeakCheck("5d" * 32, 18_000, ()),
        costs=Costs(rng.gamma(20, 2, 300), 90 * 2**20, rng.gamma(20, 2.1, 300), 88 * 2**20),
        facts={"snapshot": "5d" * 32, "code": "0c" * 20, "trained_until": "2026-11-20"},
        missing={"fresh": "no truth arrived after 2026-11-20; wait a week and judge again"},
    )


def broken_evidence(**parts: Any) -> Evidence:
    """Return evidence of the same candidate with one language broken."""
    good = good_evidence(**parts)
    sets = {name: _broken(found) for name, found in good.sets.items()}
    attacks = _attacks(np.random.default_rng(9), sets["golden"])
    return replace(good, sets=sets, attacks=attacks, candidate="e7" * 32)


def first_evidence(**parts: Any) -> Evidence:
    """Return evidence of a first release, which has no champion, and little else."""
    good = good_evidence(**parts)
    golden = replace(good.sets["golden"], champion=None)
    names = ("traffic", "fresh", "replay", "attacks")
    missing = dict.fromkeys(names, "nothing was recorded yet")
    return Evidence(
        CANDIDATE,
        None,
        POLICIES,
        {"golden": golden},
        leaks=good.leaks,
        facts=good.facts,
        missing=missing,
    )


def _scored(rng: np.random.Generator, name: str, num_rows: int, *, share: float) -> ScoredSet:
    truth_NP = (rng.random((num_rows, len(POLICIES))) < share).astype(np.int8)
    group_N = rng.integers(0, num_rows // 2, num_rows)
    item_id = np.array([f"{name}-{row:05d}" for row in range(num_rows)])
    weight_N = np.ones(num_rows) if name != "traffic" else rng.choice([0.5, 1.0, 3.0], num_rows)
    common_NP = rng.normal(size=truth_NP.shape) * 1.6

    def answers(bundle: str, distance: float) -> Answers:
        """Return the log-odds that are right at the traffic's prevalence."""
        noise_NP = common_NP + rng.normal(size=truth_NP.shape) * 0.5
        steep = distance / (1.6**2 + 0.5**2)
        log_odds_NP = steep * (noise_NP + (truth_NP - 0.5) * distance) + _PRIOR
        return Answers(bundle, 1 / (1 + np.exp(-log_odds_NP)), log_odds_NP, THRESHOLDS)

    violates_N = truth_NP.any(axis=1)
    slices = {
        key: rng.choice(words, num_rows, p=shares) for key, (words, shares) in _SLICES.items()
    }
    slices = {n: np.where(values == "xx", "", values) for n, values in slices.items()}
    evasive = np.where(violates_N, rng.choice(["evasive", "plain"], num_rows), "")
    return ScoredSet(
        name=name,
        digest=digest_rows(item_id, truth_NP, weight_N),
        policies=POLICIES,
        item_id=item_id,
        seller_id=np.array([f"seller-{group}" for group in group_N]),
        group=group_N,
        weight=weight_N,
        truth_NP=truth_NP,
        adjudicated_NP=np.ones(truth_NP.shape, bool),
        num_images=rng.integers(0, 4, num_rows),
        candidate=answers(CANDIDATE, 7.5),
        champion=answers(CHAMPION, 6.6),
        slices=slices | {"evasive": evasive},
    )


def _broken(found: ScoredSet) -> ScoredSet:
    """Return the set with the candidate blind to one language."""
    blind_NP = (found.slices["language"] == BROKEN)[:, None] & (found.truth_NP == 1)
    log_odds_NP = found.candidate.log_odds_NP - 60.0 * blind_NP
    probability_NP = 1 / (1 + np.exp(-log_odds_NP))
    candidate = Answers("e7" * 32, probability_NP, log_odds_NP, THRESHOLDS)
    return replace(found, candidate=candidate)


def _attacks(rng: np.random.Generator, golden: ScoredSet) -> tuple[AttackOutcome, ...]:
    violates_N = golden.truth_NP.any(axis=1)
    row_R = np.concatenate(
        [np.flatnonzero(violates_N)[:150], np.flatnonzero(~violates_N)[:150]]
    ).astype(np.int64)
    outcomes = []
    for name, one in ATTACKS.items():
        kept = float(rng.uniform(0.6, 1.0))
        outcomes.append(_attack(rng, golden, row_R, (name, one.family, GATE, kept)))
    for severity, kept in ((1.0, 0.5), (float("inf"), 0.0)):
        outcomes.append(_attack(rng, golden, row_R, ("gradient", "white_box", severity, kept)))
    return tuple(outcomes)


def _attack(
    rng: np.random.Generator,
    golden: ScoredSet,
    row_R: npt.NDArray[np.int64],
    what: tuple[str, str, float, float],
) -> AttackOutcome:
    name, family, severity, kept = what

    def disguised(answers: Answers, kept: float) -> Floats:
        hidden_RP = rng.random((len(row_R), len(POLICIES))) > kept
        before_RP = answers.probability_NP[row_R]
        return np.where(hidden_RP, before_RP * 0.05, before_RP)

    assert golden.champion is not None
    mine = disguised(golden.candidate, kept)
    other = None if family == "white_box" else disguised(golden.champion, kept * 0.9)
    return AttackOutcome(name, family, severity, row_R, mine, other)
