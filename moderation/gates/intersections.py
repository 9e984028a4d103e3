"""Fairness of combinations: every two slice values together, scanned for harm with false discoveries controlled.

R rows of a comparison, V combinations of two slices, H hypotheses.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np

from moderation.gates.estimates import Estimate, nothing
from moderation.gates.evidence import ScoredSet
from moderation.gates.fairness import FLAGGED, FOUND, ComparedRows, Kind, rows_of
from moderation.gates.gaps import Discoveries
from moderation.gates.judging import Context, measure
from moderation.release import Gate

_MAX_TOLD: Final = 5


@measure("intersections_found")
def intersections_found(context: Context, gate: Gate) -> Iterator[Estimate]:
    """Yield the number of combinations of two slice values that stand out, over all policies.

    A combination stands out where it is shown to be further from all others than the contract lets single values be
    (the limits of the two gap gates), to its harm: fewer violations found or more innocent listings flagged. The
    share of false discoveries among all combinations is held at 1 - confidence. Small ones cannot be certified, only
    stand out; `detail` says how many there are.
    """
    found = context.set(gate)
    if found is None:
        yield nothing("", f"the set {gate.set} is not there")
        return
    names = [name for name in gate.slices if name in found.slices]
    for name in sorted(set(gate.slices) - set(names)):
        yield nothing(name, "the set has no such slice")
    fewest = context.contract.slices.min_combination
    told: list[dict[str, Any]] = []
    p_values: list[float] = []
    too_small = 0
    for column in range(len(found.policies)):
        for kind in (FOUND, FLAGGED):
            rows = rows_of(found, column, kind)
            if isinstance(rows, str):
                yield nothing(found.policies[column], rows)
                break
            for pair in combinations(names, 2):
                tolerated = _tolerated(context, gate, kind)
                scanned, small = _scan(found, rows, pair, tolerated, fewest=fewest)
                told += [facts for facts, _ in scanned]
                p_values += [p_value for _, p_value in scanned]
                too_small += small
    if not p_values:
        yield nothing("", "no combination of two slices has rows enough to be looked at")
        return
    spread = Discoveries(np.array(p_values), 1 - gate.confidence)
    chosen = [told[h] | {"p_value": p_values[h]} for h in spread.found(spread.share_false).tolist()]
    yield Estimate(
        of="",
        value=spread.value,
        spread=spread,
        rows=found.num_rows,
        positives=int((found.truth_NP == 1).sum(axis=0).min()),
        remark="; ".join(_one_line(facts) for facts in chosen[:_MAX_TOLD]),
        detail={"found": chosen, "scanned": len(p_values), "too_small": too_small},
    )


def _tolerated(context: Context, gate: Gate, kind: Kind) -> float:
    """Return the gap that the contract lets single values have; 0 where it says nothing."""
    limits = [
        one.limit
        for one in context.contract.gates
        if one.measure == kind.measure and one.set == gate.set and one.comparator == "at_most"
    ]
    return max(min(limits, default=0.0), 0.0)


def _scan(
    found: ScoredSet, rows: ComparedRows, pair: tuple[str, str], tolerated: float, *, fewest: int
) -> tuple[list[tuple[dict[str, Any], float]], int]:
    """Return facts and p-value of each combination of two slices' values, and how many were too small."""
    first_R, second_R = (found.slices[name][rows.row_R] for name in pair)
    if not ((first_R != "").any() and (second_R != "").any()):
        return [], 0
    joint_R = np.char.add(np.char.add(first_R, "\x1f"), second_R)
    joint, count = np.unique(joint_R, return_counts=True)
    large = joint[(count >= fewest) & (count < len(joint_R))]
    if not len(large):
        return [], len(joint)
    gaps = rows.compare(joint_R == large[:, None], np.ones(len(joint_R), bool))
    p_V = gaps.p_values(tolerated, rows.kind.side)
    scanned = []
    for v, values in enumerate(large.tolist()):
        named = [_named(*one) for one in zip(pair, values.split("\x1f"), strict=True)]
        facts: dict[str, Any] = {"policy": rows.policy, "of": " and ".join(named)}
        facts |= {"what": rows.kind.words, "rows": int(gaps.rows_V[v])}
        facts |= {"rate": float(gaps.rate_V[v]), "others": float(gaps.other_rate_V[v])}
        scanned.append((facts, float(p_V[v])))
    return scanned, len(joint) - len(large)


def _named(name: str, value: str) -> str:
    return f"{name}={value}" if value else f"{name} unknown"


def _one_line(facts: Mapping[str, Any]) -> str:
    who = f"{facts['policy']} in {facts['of']}"
    return f"{who} {facts['what']} {facts['rate']:.2f}, others {facts['others']:.2f} ({facts['rows']} rows)"
