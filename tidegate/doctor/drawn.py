"""Evidence drawn from a simple score model: no bundle, no listing, thousands of rows in milliseconds.

Log-odds are drawn first and truth from them, so that the good candidate is calibrated by construction. Rows come in
groups that share their seller's slices and part of their error. N rows, P policies.
"""

from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation import attacks as registered
from moderation.attacks.registry import ATTACKS, GATE
from moderation.gates.evidence import (
    Answers,
    AttackOutcome,
    Costs,
    Evidence,
    Floats,
    ScoredSet,
    digest_rows,
)
from moderation.gates.leaked import SNAPSHOT_FACT
from moderation.leaks import LeakCheck

assert registered.__all__, "importing them makes the attacks known"

CANDIDATE: Final = "a" * 64
CHAMPION: Final = "b" * 64
SNAPSHOT: Final = "c" * 64
_POLICIES: Final = ("first", "second", "third")
THRESHOLDS: Final = {"tag": 0.05, "review": 0.3, "block": 0.97, "suspend": 0.999}
_SLICES: Final = {
    "language": ("en", "de", "es"),
    "region": ("north", "south", "west"),
    "seller_age": ("new", "young", "old"),
    "seller_size": ("small", "medium", "large"),
}
_ROW_SLICES: Final = {"category": ("home", "toys", "tech"), "price_band": ("low", "mid", "high")}
# Mean and deviation of the log-odds of each kind of row: sure violations, look-alikes, ordinary ones, unsure ones.
_KINDS: Final = {
    "violation": (8.5, 1.2),
    "unsure": (0.0, 1.2),
    "lookalike": (-5.0, 1.0),
    "ordinary": (-13.0, 1.0),
}
UNSURE: Final = 4.0
"""Deviation of the champion's error, in log-odds."""

_SHARED: Final = 0.5
"""Part of the deviation that rows of one group share."""


@dataclass(frozen=True)
class Mix:
    """How many groups of each kind a set has; groups of violations and unsure ones per policy."""

    violation: int
    unsure: int
    lookalike: int
    ordinary: int
    ordinary_weight: float = 1.0


GOLDEN: Final = Mix(260, 12, 250, 350)
TRAFFIC: Final = Mix(900, 220, 400, 2_400, 10.0)
"""What is unsure says how steep the scores are: with 110 groups of it per policy a good candidate is left uncertified
in 9 % of worlds, with 160 in 4.5 %, with 220 in 2 %."""

FRESH: Final = Mix(130, 10, 100, 300, 5.0)
REPLAY: Final = Mix(1_000, 20, 60, 900)
"""As audits of what is allowed are one in ten, so many violations show that next to nothing is newly suspended."""


@dataclass(frozen=True)
class Drawn:
    """One set before anybody has answered: its rows, and the log-odds that are right."""

    name: str
    log_odds_NP: Floats
    truth_NP: npt.NDArray[np.int8]
    group: npt.NDArray[np.int64]
    weight: Floats
    slices: dict[str, npt.NDArray[np.str_]] = field(default_factory=dict)

    def scored(self, candidate: Floats, champion: Floats) -> ScoredSet:
        """Return the set with the log-odds that both say, shape N x P."""
        ids = np.array([f"{self.name}-{row}" for row in range(len(self.group))])
        return ScoredSet(
            name=self.name,
            digest=digest_rows(ids, self.truth_NP, self.weight),
            policies=_POLICIES,
            item_id=ids,
            seller_id=np.array([f"s{group}" for group in self.group]),
            group=self.group,
            weight=self.weight,
            truth_NP=self.truth_NP,
            adjudicated_NP=np.ones(self.truth_NP.shape, bool),
            num_images=np.ones(len(ids), np.int64),
            candidate=answers(CANDIDATE, candidate),
            champion=answers(CHAMPION, champion),
            slices=self.slices,
        )


def answers(bundle: str, log_odds_NP: Floats, **tiers: float) -> Answers:
    """Return what a bundle says; `tiers` replace thresholds of every policy."""
    limits = THRESHOLDS | tiers
    return Answers(bundle, sigmoid(log_odds_NP), log_odds_NP, dict.fromkeys(_POLICIES, limits))


def sigmoid(log_odds: Floats) -> Floats:
    """Return probabilities."""
    probability: Floats = 1 / (1 + np.exp(-log_odds))
    return probability


def draw(name: str, mix: Mix, rng: np.random.Generator) -> Drawn:
    """Return a set of groups of one to three rows."""
    plan = [("ordinary", 0)] * mix.ordinary
    plan += [("lookalike", number % len(_POLICIES)) for number in range(mix.lookalike)]
    for column in range(len(_POLICIES)):
        plan += [("violation", column)] * mix.violation + [("unsure", column)] * mix.unsure
    sizes = rng.integers(1, 4, len(plan))
    group = np.repeat(np.arange(len(plan)), sizes)
    kinds = np.array([kind for kind, _ in plan])[group]
    columns = np.array([column for _, column in plan])[group]
    log_odds_NP = rng.normal(*_KINDS["ordinary"], (len(group), len(_POLICIES)))
    shared = rng.normal(size=len(plan))[group]
    mean, deviation = (np.array([_KINDS[kind][part] for kind in kinds]) for part in (0, 1))
    own = _SHARED * shared + np.sqrt(1 - _SHARED**2) * rng.normal(size=len(group))
    log_odds_NP[np.arange(len(group)), columns] = mean + deviation * own
    truth_NP = (rng.random(log_odds_NP.shape) < sigmoid(log_odds_NP)).astype(np.int8)
    slices = {
        slice_name: rng.choice(values, len(plan))[group] for slice_name, values in _SLICES.items()
    } | {slice_name: rng.choice(values, len(group)) for slice_name, values in _ROW_SLICES.items()}
    hides = np.where(rng.random(len(group)) < 0.4, "evasive", "plain")
    slices["evasive"] = np.where((truth_NP == 1).any(axis=1), hides, "")
    weight = np.where(kinds == "ordinary", mix.ordinary_weight, 1.0)
    return Drawn(name, log_odds_NP, truth_NP, group.astype(np.int64), weight, slices)


def good_evidence(seed: int) -> Evidence:
    """Return what would be found of a candidate that is right, beside a champion that is often unsure."""
    rng = np.random.default_rng(seed)
    mixes = {"golden": GOLDEN, "traffic": TRAFFIC, "fresh": FRESH}
    sets = {}
    for name, mix in mixes.items():
        drawn = draw(name, mix, rng)
        right_NP = drawn.log_odds_NP
        sets[name] = drawn.scored(right_NP, right_NP + rng.normal(0, UNSURE, right_NP.shape))
    recorded = draw("replay", REPLAY, rng)
    moved_NP = recorded.log_odds_NP + rng.normal(0, 0.3, recorded.log_odds_NP.shape)
    sets["replay"] = recorded.scored(moved_NP, recorded.log_odds_NP)
    return Evidence(
        candidate=CANDIDATE,
        champion=CHAMPION,
        policies=_POLICIES,
        sets=sets,
        attacks=tuple(attacks(sets["golden"], rng, hidden=0.1, suspected=0.0)),
        leaks=LeakCheck(SNAPSHOT, 5_000, ()),
        costs=costs(rng, slower=1.0),
        facts={SNAPSHOT_FACT: SNAPSHOT},
    )


def attacks(
    golden: ScoredSet, rng: np.random.Generator, *, hidden: float, suspected: float
) -> list[AttackOutcome]:
    """Return attacks each of which hides a share of the violations and makes a share of the innocent suspicious."""
    violations = np.flatnonzero((golden.truth_NP == 1).any(axis=1))
    innocents = np.flatnonzero(~(golden.truth_NP == 1).any(axis=1))
    row_R = np.sort(np.append(rng.choice(violations, 300, replace=False), innocents[:150]))
    guilty_R = (golden.truth_NP[row_R] == 1).any(axis=1)
    outcomes = []
    for name, attack in ATTACKS.items():
        said_RP = golden.candidate.log_odds_NP[row_R] + rng.normal(0, 0.2, (len(row_R), 3))
        said_RP[guilty_R & (rng.random(len(row_R)) < hidden)] = -6.0
        said_RP[~guilty_R & (rng.random(len(row_R)) < suspected)] = 4.0
        outcomes.append(_outcome(name, attack.family, GATE, row_R, said_RP))
    few_R = violations[np.argsort(-golden.candidate.log_odds_NP[violations].max(axis=1))][:20]
    outcomes.append(_outcome("joint", "white_box", float("inf"), few_R, np.full((20, 3), -9.0)))
    return outcomes


def _outcome(
    name: str, family: str, severity: float, row_R: npt.NDArray[np.int64], said_RP: Floats
) -> AttackOutcome:
    return AttackOutcome(name, family, severity, row_R, sigmoid(said_RP), sigmoid(said_RP))


def costs(rng: np.random.Generator, *, slower: float) -> Costs:
    """Return timings of the candidate, `slower` times those of the champion."""
    candidate, champion = rng.lognormal(np.log(30), 0.1, (2, 300))
    return Costs(candidate * slower, 2**25, champion, 2**25)


def with_answers(evidence: Evidence, name: str, log_odds_NP: Floats, **tiers: float) -> Evidence:
    """Return the evidence with other answers of the candidate on one set."""
    found = evidence.sets[name]
    changed = replace(found, candidate=answers(CANDIDATE, log_odds_NP, **tiers))
    return replace(evidence, sets=dict(evidence.sets) | {name: changed})
