"""How often the gates are wrong: a good candidate held back, a bad one passed, over many drawn worlds."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
from threadpoolctl import threadpool_limits

from moderation.gates import measures
from moderation.gates.estimates import Proportion
from moderation.gates.evidence import Evidence
from moderation.gates.judging import GateResult, decide, judge
from moderation.release import STANDARD, Gate, ReleaseContract
from tidegate.doctor.drawn import good_evidence
from tidegate.doctor.spoiled import SPOILED

assert measures.__all__, "importing them makes the contract's measures known"

MOST_WRONG: Final = 0.05
"""Of good candidates held back by any gate; of bad ones passed by the gate that must hold them."""

CONFIDENCE: Final = 0.95
_ENOUGH: Final = 200
"""From so many worlds on the observed rate itself must keep the limit; below, it must not be shown above it."""

_RESAMPLES: Final = 400
"""Fewer than a release takes: one world of many may be judged more coarsely."""

_READS_TIERS: Final = {
    "recall_at_precision",
    "unreachable_tiers",
    "reviews_per_day",
    "decisions_stronger",
    "decisions_weaker",
}
"""Measures that ask which tiers the contract certifies."""

Progress = Callable[[int, int], None]
Mapper = Callable[..., Iterable[Any]]
"""`map`, in as many processes as were asked for."""


@dataclass(frozen=True)
class Rate:
    """One share of worlds, with its interval."""

    what: str
    hits: int
    runs: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.runs

    @property
    def interval(self) -> tuple[float, float]:
        """Exact two-sided interval."""
        share, level = Proportion(self.hits, self.runs), 1 - (1 - CONFIDENCE) / 2
        return share.low(level), share.high(level)

    @property
    def is_right(self) -> bool:
        """Whether the limit is kept, as far as so many worlds can tell."""
        if self.runs >= _ENOUGH:
            return self.value <= MOST_WRONG
        return Proportion(self.hits, self.runs).low(CONFIDENCE) <= MOST_WRONG


@dataclass(frozen=True)
class Rates:
    """What all worlds said."""

    good_held: Rate
    """By any gate."""

    good_held_by: dict[str, int]
    good_capped_by: dict[str, int]
    """Tiers that stayed closed: that is no block."""

    bad_passed: tuple[Rate, ...]
    """Of each fault and gate."""

    @property
    def is_right(self) -> bool:
        """Whether every limit is kept."""
        return self.good_held.is_right and all(rate.is_right for rate in self.bad_passed)


@dataclass
class _World:
    """What one world said."""

    held_by: tuple[str, ...]
    capped_by: tuple[str, ...]
    passed: dict[tuple[str, str], bool] = field(default_factory=dict)


def measure_rates(
    contract: ReleaseContract,
    num_worlds: int,
    *,
    processes: int = 2,
    progress: Progress = lambda done, total: None,
) -> Rates:
    """Return how often good is held back and bad is passed, over worlds of the seeds 0 to `num_worlds` - 1."""
    risk = contract.risk.model_copy(update={"resamples": min(contract.risk.resamples, _RESAMPLES)})
    contract = contract.model_copy(update={"risk": risk})
    worlds: list[_World] = []
    with mapper(processes) as each:
        for world in each(partial(_world, contract), range(num_worlds)):
            worlds.append(world)
            progress(len(worlds), num_worlds)
    return _summed(worlds)


@contextmanager
def mapper(processes: int) -> Iterator[Mapper]:
    """Give `map`, of as many processes, linear algebra in each on one thread; of none, in this one."""
    if not processes:
        yield map
        return
    spawned = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawned, initializer=_one_thread) as pool:
        yield pool.map


def _one_thread() -> None:
    """Keep linear algebra to one thread: processes share the cores, and threads of several wait for each other."""
    threadpool_limits(1)


def fires(result: GateResult) -> bool:
    """Return whether a gate holds a candidate back, or closes the tier that it guards."""
    return result.blocks or (result.state != "pass" and result.gate.uncertified == "cap")


def _world(contract: ReleaseContract, seed: int) -> _World:
    evidence = good_evidence(seed)
    judgement = judge(evidence, contract, seed=seed)
    num_checks = sum(len(result.checks) for result in judgement.results)
    world = _World(
        held_by=tuple(result.gate.id for result in judgement.results if result.blocks),
        capped_by=tuple(
            result.gate.id for result in judgement.results if fires(result) and not result.blocks
        ),
    )
    for number, (name, (spoil, gate_ids)) in enumerate(SPOILED.items()):
        bad = spoil(evidence, np.random.default_rng((seed, number)))
        for result in judge_some(bad, contract, gate_ids, seed=seed, num_checks=num_checks):
            world.passed[name, result.gate.id] = not fires(result)
    return world


def judge_some(
    evidence: Evidence,
    contract: ReleaseContract,
    gate_ids: Sequence[str],
    *,
    seed: int,
    num_checks: int,
) -> list[GateResult]:
    """Return the verdicts of some gates as if all had been judged, `num_checks` in all."""
    found: list[GateResult] = []
    for objective, chosen in _by_objective(contract, gate_ids):
        promotion = contract.promotion.model_copy(update={"objective": objective})
        part = contract.model_copy(update={"gates": tuple(chosen), "promotion": promotion})
        results = [
            result
            for result in judge(evidence, part, seed=seed).results
            if result.gate.id in gate_ids
        ]
        measured = [(r.gate, [check.estimate for check in r.checks]) for r in results]
        taken = sum(len(estimates) for _, estimates in measured)
        share = contract.risk.block_good * taken / max(num_checks, taken)
        found += decide(measured, share, contract.profiles[STANDARD])
    return found


def _by_objective(
    contract: ReleaseContract, gate_ids: Sequence[str]
) -> Iterable[tuple[str, list[Gate]]]:
    """Yield the gates with the objective under which they are judged, and the tiers' bounds that some read."""
    chosen = [contract.gate(gate_id) for gate_id in gate_ids]
    bounds = [gate for gate in contract.gates if gate.measure == "tier_precision"]
    common = [gate for gate in chosen if gate.comparator != "more_than"]
    if any(gate.measure in _READS_TIERS for gate in common):
        common += [gate for gate in bounds if gate not in common]
    if common:
        yield contract.promotion.objective, common
    for gate in chosen:
        if gate.comparator == "more_than":
            yield gate.id, [gate]


def _summed(worlds: Sequence[_World]) -> Rates:
    total = len(worlds)
    passed = Counter(
        pair for world in worlds for pair, is_passed in world.passed.items() if is_passed
    )
    pairs = list(worlds[0].passed)
    return Rates(
        good_held=Rate("good held back by any gate", sum(bool(w.held_by) for w in worlds), total),
        good_held_by=dict(Counter(gate for world in worlds for gate in world.held_by)),
        good_capped_by=dict(Counter(gate for world in worlds for gate in world.capped_by)),
        bad_passed=tuple(
            Rate(f"{name} passed by {gate}", passed[name, gate], total) for name, gate in pairs
        ),
    )
