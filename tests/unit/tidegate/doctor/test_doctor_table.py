"""The doctor's table: what is expected of whom, and what counts as wrong."""

from pathlib import Path

from components.contract import read_contract
from moderation.release import load_release
from tests.gate_world import CONTRACT, contract_of
from tidegate.doctor.candidates import CANDIDATES, GOOD, TIE, Candidate, Entry
from tidegate.doctor.judging import contract_for, untimed
from tidegate.doctor.table import Cell, as_markdown, as_matrix, expected_lines, unpaired
from tidegate.doctor.workshop import Workshop

_PASS = Cell("pass", blocks=False, fires=False)
_FAIL = Cell("fail", blocks=True, fires=True)
_CAPPED = Cell("not_certified", blocks=False, fires=True)
_REPORTED = Cell("not_certified", blocks=False, fires=False)
_RULES = contract_of("no-leak", "tier-block")
_OBJECTIVE = _RULES.promotion.objective


def _never(shop: Workshop, name: str) -> Entry:
    raise AssertionError("nobody enters here")


_PEOPLE = (
    Candidate("fine", "", _never),
    Candidate("a tie", "", _never, (_OBJECTIVE,), held_by_these_alone=True),
    Candidate("leaky", "", _never, ("no-leak", "tier-block")),
)


def _wrong(got: dict[str, dict[str, Cell]]) -> set[tuple[str, str]]:
    lines = expected_lines(_RULES, got, _PEOPLE)
    return {(line.gate, line.candidate) for line in lines if not line.is_right}


def _got(**changes: dict[str, Cell]) -> dict[str, dict[str, Cell]]:
    gates = [gate.id for gate in _RULES.gates]
    right = {
        "fine": dict.fromkeys(gates, _PASS),
        "a tie": dict.fromkeys(gates, _PASS) | {_OBJECTIVE: _FAIL},
        "leaky": {"no-leak": _FAIL, "tier-block": _CAPPED},
    }
    return {name: cells | changes.get(name, {}) for name, cells in right.items()}


def test_nothing_is_wrong_when_all_is_as_expected() -> None:
    assert _wrong(_got()) == set()


def test_a_good_candidate_held_is_wrong() -> None:
    assert _wrong(_got(fine={"no-leak": _FAIL})) == {("no-leak", "fine")}


def test_a_good_candidate_uncertified_is_wrong() -> None:
    assert _wrong(_got(fine={"tier-block": _CAPPED})) == {("tier-block", "fine")}


def test_a_bad_candidate_passed_is_wrong() -> None:
    assert _wrong(_got(leaky={"no-leak": _PASS})) == {("no-leak", "leaky")}


def test_a_bad_candidate_only_reported_is_wrong() -> None:
    assert _wrong(_got(leaky={"tier-block": _REPORTED})) == {("tier-block", "leaky")}


def test_a_gate_that_was_not_judged_is_wrong() -> None:
    got = _got()
    got["leaky"].pop("no-leak")
    assert _wrong(got) == {("no-leak", "leaky")}


def test_a_gate_without_a_bad_candidate_is_named() -> None:
    lines = expected_lines(_RULES, _got(), _PEOPLE[:2])
    assert unpaired(lines, _RULES) == [
        "no-leak: no known-bad candidate",
        "tier-block: no known-bad candidate",
    ]


def test_the_table_names_what_is_wrong() -> None:
    table = as_markdown(expected_lines(_RULES, _got(leaky={"no-leak": _PASS}), _PEOPLE))
    assert "leaky: pass WRONG" in table
    assert table.count("WRONG") == 1


def test_the_matrix_has_a_row_a_gate() -> None:
    rows = as_matrix(_got(), _RULES).splitlines()
    assert "| no-leak | · | · | F |" in rows
    assert rows[-1] == "1 fine, 2 a tie, 3 leaky"


def test_every_gate_of_the_contract_has_a_pair() -> None:
    rules = load_release(CONTRACT)
    assert unpaired(expected_lines(rules, {}), rules) == []


def test_every_candidate_names_gates_that_exist() -> None:
    known = {gate.id for gate in load_release(CONTRACT).gates}
    assert {gate for one in CANDIDATES for gate in one.held_by} <= known
    assert {GOOD, TIE} <= {one.name for one in CANDIDATES}


def test_every_objective_of_a_candidate_is_a_contract() -> None:
    text = CONTRACT.read_text()
    chosen = [one for one in CANDIDATES if one.objective]
    assert chosen
    for candidate in chosen:
        rules = read_contract(contract_for(candidate, text))
        assert rules.promotion.objective == candidate.objective


_UNSURE = Cell("not_certified", blocks=True, fires=True)
_LATE = Cell("fail", blocks=True, fires=True)
_TIMED = dict.fromkeys(
    ("cost-latency", "cost-latency-ratio", "cost-size", "cost-size-growth"), _PASS
)
_TEXT = CONTRACT.read_text(encoding="utf-8")


def test_an_unsure_latency_is_timed_again() -> None:
    cells = _TIMED | {"cost-latency-ratio": _UNSURE}
    assert untimed(_PEOPLE[0], cells, _TEXT) == ["cost-latency-ratio"]


def test_a_latency_shown_slow_is_not_timed_again() -> None:
    assert not untimed(_PEOPLE[0], _TIMED | {"cost-latency-ratio": _LATE}, _TEXT)


def test_nobody_bad_is_timed_again() -> None:
    slow = Candidate("slow", "", _never, ("cost-latency-ratio",))
    assert not untimed(slow, _TIMED | {"cost-latency-ratio": _UNSURE}, _TEXT)


def test_a_forgotten_proof_is_taken_anew(tmp_path: Path) -> None:
    shop = Workshop(tmp_path, _TEXT, "")
    evidence = shop.candidate_folder("a tie") / "evidence"
    evidence.mkdir(parents=True)
    stamps = ("proof-a-tie", "judged-a-tie-0123456789abcdef", "proof-leaky")
    for stamp in stamps:
        with shop.once(stamp):
            pass
    shop.forget("a tie")
    assert not evidence.exists()
    left = []
    for stamp in stamps:
        with shop.once(stamp) as is_new:
            left.append(is_new)
    assert left == [True, True, False]
