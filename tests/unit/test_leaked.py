"""The gate on leaks: counts every leaked item, and has no data where the right snapshot was not searched."""

from dataclasses import replace

import pytest

from moderation.gates import measures
from moderation.gates.evidence import Evidence
from moderation.gates.judging import GateResult, judge
from moderation.gates.leaked import SNAPSHOT_FACT
from moderation.leaks import Leak, LeakCheck
from tests.gate_world import contract_of, evidence_of, scored_set

assert measures.__all__, "importing them makes the contract's measures known"

SNAPSHOT = "c" * 64
CLEAN = LeakCheck(SNAPSHOT, 5_000, ())


def _evidence(check: LeakCheck | None, *, rows: int = 400) -> Evidence:
    facts = {SNAPSHOT_FACT: SNAPSHOT}
    return evidence_of(scored_set(num_rows=rows), leaks=check, facts=facts)


def _result(evidence: Evidence) -> GateResult:
    judgement = judge(evidence, contract_of("no-leak"), seed=3)
    return next(result for result in judgement.results if result.gate.id == "no-leak")


def test_clean_search_passes() -> None:
    result = _result(_evidence(CLEAN))
    assert (result.state, result.blocks) == ("pass", False)
    assert result.checks[0].estimate.value == 0


@pytest.mark.parametrize("way", ["id", "seller", "campaign", "pdq", "text", "embedding"])
def test_one_leak_of_any_kind_fails(way: str) -> None:
    result = _result(_evidence(replace(CLEAN, leaks=(Leak("golden-7", "s-1", way),))))
    assert (result.state, result.blocks) == ("fail", True)
    assert f"1 by {way}: golden-7" in result.reason


def test_item_that_leaks_in_two_ways_counts_once() -> None:
    leaks = (Leak("golden-7", "s-1", "pdq"), Leak("golden-7", "s-2", "text"))
    estimate = _result(_evidence(replace(CLEAN, leaks=leaks))).checks[0].estimate
    assert estimate.value == 1
    assert estimate.detail["ways"] == {"pdq": 1, "text": 1}


def test_no_search_is_no_data() -> None:
    result = _result(replace(_evidence(None), missing={"leaks": "the table is gone"}))
    assert (result.state, result.blocks) == ("no_data", True)
    assert "the table is gone" in result.reason


@pytest.mark.parametrize("facts", [{SNAPSHOT_FACT: "d" * 64}, {}])
def test_search_of_another_snapshot_is_no_data(facts: dict[str, str]) -> None:
    result = _result(replace(_evidence(CLEAN), facts=facts))
    assert (result.state, result.blocks) == ("no_data", True)
    assert "prove it with its own snapshot" in result.reason


def test_search_of_nothing_is_no_data() -> None:
    assert _result(_evidence(replace(CLEAN, rows=0))).state == "no_data"


def test_no_golden_set_is_no_data() -> None:
    assert _result(replace(_evidence(CLEAN), sets={})).state == "no_data"


def test_small_golden_set_is_not_certified() -> None:
    result = _result(_evidence(CLEAN, rows=20))
    assert (result.state, result.blocks) == ("not_certified", True)
