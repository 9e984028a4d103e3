"""The gate on the prefilter: a closed one passes, one that hides violations does not, few violations show nothing."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Evidence, Flags, ScoredSet
from moderation.gates.judging import GateResult, judge
from moderation.gates.measures import READS
from tests.gate_world import contract_of, evidence_of, scored_set

GATE = "prefilter-recall"


def _letting_go(lets_go_N: Flags | None, **world: int) -> ScoredSet:
    found = scored_set("traffic", **world)
    return replace(found, candidate=replace(found.candidate, lets_go_N=lets_go_N))


def _judged(found: ScoredSet | None) -> GateResult:
    evidence = evidence_of(*([] if found is None else [found]))
    results = judge(evidence, contract_of(GATE), seed=1).results
    return next(result for result in results if result.gate.id == GATE)


def _violates(found: ScoredSet) -> Flags:
    violates_N: Flags = (found.truth_NP == 1).any(axis=1)
    return violates_N


def test_it_is_a_measure_of_the_contract() -> None:
    assert "traffic" in READS["prefilter_recall"].sets


@pytest.mark.parametrize("num_rows", [60, 3_000])
def test_a_bundle_that_lets_nothing_go_passes_whatever_is_known(num_rows: int) -> None:
    assert _judged(_letting_go(None, num_rows=num_rows)).state == "pass"


def test_one_that_lets_only_others_go_passes_for_every_policy_and_the_evasive() -> None:
    found = scored_set("traffic")
    result = _judged(_letting_go(~_violates(found)))
    assert result.state == "pass"
    said = [check.estimate.of for check in result.checks]
    assert said == [*found.policies, "evasive"]


def test_one_that_lets_some_violations_go_fails() -> None:
    rng = np.random.default_rng(1)
    result = _judged(_letting_go(rng.random(3_000) < 0.2))
    assert (result.state, result.blocks) == ("fail", True)
    assert "violations let go" in result.reason


def test_one_policy_alone_is_enough_to_fail() -> None:
    found = scored_set("traffic")
    result = _judged(_letting_go(found.truth_NP[:, 1] == 1))
    failed = [check.estimate.of for check in result.checks if check.state == "fail"]
    assert found.policies[1] in failed


def test_a_few_violations_certify_no_open_prefilter() -> None:
    found = scored_set("traffic", num_rows=120)
    result = _judged(_letting_go(~_violates(found), num_rows=120))
    assert (result.state, result.blocks) == ("not_certified", True)
    assert "99 positives" in result.reason


def test_without_a_violation_there_is_no_data() -> None:
    found = _letting_go(np.ones(3_000, bool))
    result = _judged(replace(found, truth_NP=np.zeros_like(found.truth_NP), slices={}))
    assert result.state == "no_data"


@pytest.mark.parametrize("known", [{}, {"evasive": "plain"}])
def test_without_an_evasive_violation_an_open_prefilter_is_not_passed(
    known: Mapping[str, str],
) -> None:
    found = _letting_go(None)
    slices = {name: values for name, values in found.slices.items() if name != "evasive"}
    slices |= {name: np.full(found.num_rows, value) for name, value in known.items()}
    found = replace(found, slices=slices)
    assert _judged(found).state == "pass", "it lets nothing go"
    lets_go = replace(found.candidate, lets_go_N=~_violates(found))
    result = _judged(replace(found, candidate=lets_go))
    assert (result.state, result.blocks) == ("no_data", True)
    assert "evasive" in result.reason


def test_without_the_set_there_is_no_data() -> None:
    assert _judged(None).state == "no_data"


def test_evidence_keeps_what_is_let_go(tmp_path: Path) -> None:
    lets_go_N = np.arange(3_000) % 3 == 0
    evidence_of(_letting_go(lets_go_N)).save(tmp_path)
    loaded = Evidence.load(tmp_path).sets["traffic"]
    assert loaded.candidate.lets_go_N is not None
    np.testing.assert_array_equal(loaded.candidate.lets_go_N, lets_go_N)
    assert loaded.champion is not None
    assert loaded.champion.lets_go_N is None


def test_evidence_of_other_rows_is_refused() -> None:
    with pytest.raises(InvalidSnapshot, match="lets_go_N"):
        _letting_go(np.zeros(7, bool))
