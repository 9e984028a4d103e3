"""What was expected of each gate about each candidate, and what came."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from moderation.release import Gate, ReleaseContract
from tidegate.doctor.candidates import CANDIDATES, Candidate

Got = Mapping[str, Mapping[str, "Cell"]]
"""Candidate -> gate -> what came; a gate that was not judged is not there."""

_LETTERS: Final = {"pass": "·", "fail": "F", "not_certified": "n", "no_data": "d"}


@dataclass(frozen=True)
class Cell:
    """What one gate said of one candidate."""

    state: str
    blocks: bool
    fires: bool
    """Whether it holds the candidate back, or closes the tier that it guards."""

    reason: str = ""

    @property
    def said(self) -> str:
        """The state, and what follows from it."""
        held = "held" if self.blocks else "tier closed" if self.fires else "let through"
        return "pass" if self.state == "pass" else f"{self.state}, {held}"


@dataclass(frozen=True)
class Line:
    """One expectation."""

    gate: str
    candidate: str
    must_pass: bool
    got: Cell | None

    @property
    def is_right(self) -> bool:
        """Whether what came is what was expected; a gate that was not judged is never right."""
        if self.got is None:
            return False
        return self.got.state == "pass" if self.must_pass else self.got.fires


def expected_lines(
    contract: ReleaseContract, got: Got, candidates: Sequence[Candidate] = CANDIDATES
) -> list[Line]:
    """Return every expectation with what came of it, gate by gate."""
    lines = []
    for gate in contract.gates:
        for candidate in candidates:
            must_pass = expects(candidate, gate, contract)
            if must_pass is not None:
                cell = got.get(candidate.name, {}).get(gate.id)
                lines.append(Line(gate.id, candidate.name, must_pass, cell))
    return lines


def expects(candidate: Candidate, gate: Gate, contract: ReleaseContract) -> bool | None:
    """Return whether a gate must pass a candidate (True) or hold it (False); None where nothing is expected."""
    objective = candidate.objective or contract.promotion.objective
    if gate.comparator == "more_than" and gate.id != objective:
        return None
    if gate.id in candidate.held_by:
        return False
    is_known_good = not candidate.held_by or candidate.held_by_these_alone
    return True if is_known_good else None


def unpaired(lines: Iterable[Line], contract: ReleaseContract) -> list[str]:
    """Return the gates that lack a candidate that they must pass, or one that they must hold."""
    found = {(line.gate, line.must_pass) for line in lines}
    return [
        f"{gate.id}: no known-{'good' if must_pass else 'bad'} candidate"
        for gate in contract.gates
        for must_pass in (True, False)
        if (gate.id, must_pass) not in found
    ]


def as_markdown(lines: Sequence[Line]) -> str:
    """Return the expectations as a table: one row a gate, its good and its bad candidates with what came."""
    rows = ["| gate | must pass | must hold |", "| --- | --- | --- |"]
    for gate in dict.fromkeys(line.gate for line in lines):
        told = [
            "; ".join(_told(line) for line in lines if line.gate == gate and line.must_pass is must)
            for must in (True, False)
        ]
        rows.append(f"| {gate} | {told[0] or 'NONE'} | {told[1] or 'NONE'} |")
    return "\n".join(rows)


def _told(line: Line) -> str:
    came = "not judged" if line.got is None else line.got.said
    return f"{line.candidate}: {came}{'' if line.is_right else ' WRONG'}"


def as_matrix(got: Got, contract: ReleaseContract) -> str:
    """Return every gate and candidate: `·` pass, F fail, n not certified, d no data, blank not judged."""
    names = list(got)
    header = [
        "| gate | " + " | ".join(str(number) for number in range(1, len(names) + 1)) + " |",
        "| --- " * (len(names) + 1) + "|",
    ]
    rows = []
    for gate in contract.gates:
        cells = [got[name].get(gate.id) for name in names]
        letters = [" " if cell is None else _LETTERS[cell.state] for cell in cells]
        rows.append(f"| {gate.id} | " + " | ".join(letters) + " |")
    legend = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
    return "\n".join([*header, *rows, "", legend])
