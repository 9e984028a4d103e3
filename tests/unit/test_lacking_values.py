"""Slice values that deployed traffic has and the golden set lacks: nothing is known of them, which is no pass."""

from dataclasses import replace

import numpy as np
import pytest

from moderation.gates import measures
from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import GateResult, judge
from tests.gate_rates import sized_set
from tests.gate_world import CHAMPION, contract_of, evidence_of, with_rows

assert measures.__all__, "importing them makes the contract's measures known"

GATES = ("not-worse-in-any-language", "fair-true-positives", "fair-false-positives")


def _without(found: ScoredSet, language: str) -> ScoredSet:
    return with_rows(found, np.flatnonzero(found.slices["language"] != language))


def _traffic(found: ScoredSet, rows_of_pl: int) -> ScoredSet:
    others = np.flatnonzero(found.slices["language"] != "pl")
    pl = np.flatnonzero(found.slices["language"] == "pl")[:rows_of_pl]
    return replace(with_rows(found, np.append(others, pl)), name="traffic")


def _result(gate: str, golden: ScoredSet, *others: ScoredSet) -> GateResult:
    golden = replace(golden, champion=replace(golden.candidate, bundle=CHAMPION))
    contract = contract_of(gate)
    risk = contract.risk.model_copy(update={"resamples": 400})
    judged = judge(evidence_of(golden, *others), contract.model_copy(update={"risk": risk}), seed=1)
    return next(result for result in judged.results if result.gate.id == gate)


@pytest.mark.parametrize("gate", GATES)
def test_value_that_only_traffic_has_holds_a_candidate(gate: str) -> None:
    whole = sized_set(1_200)
    lacking, traffic = _without(whole, "pl"), _traffic(whole, 40)
    held = _result(gate, lacking, traffic)
    assert (held.state, held.blocks) == ("no_data", True)
    assert "language=pl: no row of it in golden, 40 in traffic; it would take" in held.reason
    assert _result(gate, whole, traffic).state == "pass"


@pytest.mark.parametrize("gate", GATES)
def test_value_that_traffic_hardly_has_is_not_asked_for(gate: str) -> None:
    whole = sized_set(1_200)
    lacking = _without(whole, "pl")
    assert _result(gate, lacking, _traffic(whole, 9)).state == "pass"
    assert _result(gate, lacking).state == "pass"
