"""Would the doctor notice a wrong contract? Every number of every gate is changed, and some expected cell must change.

Nothing is scored or measured again: the figures that the candidates gave are decided under the changed gate.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from moderation.gates.estimates import Exact
from moderation.gates.evidence import Evidence
from moderation.gates.gaps import Discoveries
from moderation.gates.judging import GateResult, decide
from moderation.release import STANDARD, Gate, ReleaseContract
from tidegate.doctor.candidates import CANDIDATES, GOOD, Candidate
from tidegate.doctor.making import SEED
from tidegate.doctor.rates import Mapper, fires, judge_some, mapper
from tidegate.doctor.table import expects

_FAR: Final = 1e9
_FLIPPED: Final = {"at_least": "at_most", "at_most": "at_least", "more_than": "at_most"}

Change = Callable[[Gate], Gate | None]
"""Gives the changed gate; None where the gate has nothing of the kind."""


EvidenceOf = Callable[[str], Evidence]
"""By a candidate's name."""


@dataclass(frozen=True)
class Mutant:
    """One change of the contract, and who noticed."""

    gate: str
    change: str
    noticed_by: str
    """The first candidate whose cell changed; empty if the change survived."""


@dataclass(frozen=True)
class _Pair:
    """One expectation with the figures that it rests on."""

    candidate: str
    must_pass: bool
    result: GateResult
    block_good: float
    """Part of the contract's that these checks may spend."""


def _comparator(gate: Gate) -> Gate | None:
    return gate.model_copy(update={"comparator": _FLIPPED[gate.comparator]})


def _permissive(gate: Gate) -> Gate | None:
    side = 1 if gate.comparator == "at_most" else -1
    return gate.model_copy(update={"limit": side * _FAR})


def _strict(gate: Gate) -> Gate | None:
    side = -1 if gate.comparator == "at_most" else 1
    return gate.model_copy(update={"limit": side * _FAR})


def _rows(gate: Gate) -> Gate | None:
    return gate.model_copy(update={"min_rows": int(_FAR)})


def _positives(gate: Gate) -> Gate | None:
    return gate.model_copy(update={"min_positives": int(_FAR)}) if gate.min_positives else None


def _confidence(gate: Gate) -> Gate | None:
    return gate.model_copy(update={"confidence": 1.0})


CHANGES: Final[dict[str, Change]] = {
    "comparator flipped": _comparator,
    "limit far to the permissive side": _permissive,
    "limit far to the strict side": _strict,
    "min_rows absurd": _rows,
    "min_positives absurd": _positives,
    "confidence absurd": _confidence,
}


def survey(
    contract: ReleaseContract,
    evidence_of: EvidenceOf,
    candidates: Sequence[Candidate] = CANDIDATES,
    *,
    processes: int = 0,
) -> list[Mutant]:
    """Return every change of the contract with who noticed it.

    Args:
        contract: whose gates are changed.
        evidence_of: gives the evidence about a candidate; with processes, something that can be sent to them.
        candidates: whose expectations may notice.
        processes: that measure the gates side by side; 0: this one does.
    """
    with mapper(processes) as each:
        pairs = list(_pairs(contract, evidence_of, candidates, each))
    mutants = []
    for gate in contract.gates:
        own = [pair for pair in pairs if pair.result.gate.id == gate.id]
        for name, change in CHANGES.items():
            changed = change(gate)
            if changed is not None and not (name == "confidence absurd" and _has_no_error(own)):
                mutants.append(Mutant(gate.id, name, _noticed(changed, own, contract)))
        if any(pair.result.state == "not_certified" for pair in own if not pair.must_pass):
            let_go = gate.model_copy(update={"uncertified": "report"})
            mutants.append(Mutant(gate.id, "uncertified: report", _noticed(let_go, own, contract)))
    return mutants


def _pairs(
    contract: ReleaseContract,
    evidence_of: EvidenceOf,
    candidates: Sequence[Candidate],
    each: Mapper,
) -> Iterator[_Pair]:
    first = [one for one in candidates if one.name == GOOD]
    others = [one for one in candidates if one.name != GOOD]
    asked = [(one.name, tuple(_wanted(contract, one))) for one in (*first, *others)]
    known = [_results(contract, evidence_of, 1, one) for one in asked[: len(first)]]
    num_checks = sum(len(result.checks) for results in known for result in results) or 1
    known += each(partial(_results, contract, evidence_of, num_checks), asked[len(first) :])
    for candidate, results in zip([*first, *others], known, strict=True):
        wanted = _wanted(contract, candidate)
        for result in results:
            share = contract.risk.block_good * len(result.checks) / num_checks
            yield _Pair(candidate.name, wanted[result.gate.id], result, share)


def _wanted(contract: ReleaseContract, candidate: Candidate) -> dict[str, bool]:
    """Return gate -> whether it must pass the candidate, where anything is expected."""
    return {
        gate.id: must_pass
        for gate in contract.gates
        if (must_pass := expects(candidate, gate, contract)) is not None
    }


def _results(
    contract: ReleaseContract,
    evidence_of: EvidenceOf,
    num_checks: int,
    asked: tuple[str, tuple[str, ...]],
) -> list[GateResult]:
    """Return the verdicts about a candidate, by name, of the gates that expect something of it."""
    name, gate_ids = asked
    return judge_some(evidence_of(name), contract, gate_ids, seed=SEED, num_checks=num_checks)


def _noticed(changed: Gate, pairs: Sequence[_Pair], contract: ReleaseContract) -> str:
    for pair in pairs:
        estimates = [check.estimate for check in pair.result.checks]
        (result,) = decide(
            [(changed, estimates)], min(pair.block_good, 0.5), contract.profiles[STANDARD]
        )
        is_right = result.state == "pass" if pair.must_pass else fires(result)
        if not is_right:
            return pair.candidate
    return ""


def _has_no_error(pairs: Sequence[_Pair]) -> bool:
    """Return whether what must pass are counts of everything: no confidence keeps those from passing."""
    return all(
        isinstance(check.estimate.spread, Exact | Discoveries)
        for pair in pairs
        if pair.must_pass
        for check in pair.result.checks
        if check.estimate.spread is not None
    )


def survivors(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Return the changes that nobody noticed."""
    return [mutant for mutant in mutants if not mutant.noticed_by]


def summary(mutants: Sequence[Mutant]) -> str:
    """Return how many changes of each kind there were, and how many were noticed, as a table."""
    rows = ["| change | tried | noticed |", "| --- | ---: | ---: |"]
    for change in dict.fromkeys(mutant.change for mutant in mutants):
        of_kind = [mutant for mutant in mutants if mutant.change == change]
        noticed = len(of_kind) - len(survivors(of_kind))
        rows.append(f"| {change} | {len(of_kind)} | {noticed} |")
    return "\n".join(rows)
