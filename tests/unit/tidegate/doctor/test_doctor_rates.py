"""Rates: how often gates are wrong about worlds whose truth is known."""

import numpy as np
import pytest

from moderation.gates.judging import judge
from moderation.release import ReleaseContract, load_release
from tests.gate_world import CONTRACT, contract_of
from tidegate.doctor.drawn import good_evidence
from tidegate.doctor.rates import Rate, fires, judge_some, measure_rates
from tidegate.doctor.spoiled import SPOILED


def _coarse(rules: ReleaseContract) -> ReleaseContract:
    risk = rules.risk.model_copy(update={"resamples": 200})
    return rules.model_copy(update={"risk": risk})


@pytest.mark.parametrize(
    ("hits", "runs", "is_right"),
    [(0, 12, True), (1, 12, True), (4, 12, False), (10, 200, True), (11, 200, False)],
)
def test_rate_keeps_its_limit_as_far_as_worlds_tell(hits: int, runs: int, is_right: bool) -> None:
    assert Rate("good held", hits, runs).is_right is is_right


def test_interval_covers_the_rate() -> None:
    low, high = Rate("good held", 3, 200).interval
    assert 0 < low < 0.015 < high < 0.05


def test_every_gate_has_a_drawn_fault() -> None:
    known = {gate.id for gate in load_release(CONTRACT).gates}
    assert {gate for _, gates in SPOILED.values() for gate in gates} == known


def test_some_gates_are_decided_as_if_all_were_judged() -> None:
    rules, evidence = _coarse(load_release(CONTRACT)), good_evidence(1)
    wanted = ("no-leak", "golden-recall-at-block", "tier-review")
    whole = judge(
        evidence,
        rules.model_copy(
            update={"gates": tuple(g for g in rules.gates if g.set in ("golden", "traffic"))}
        ),
        seed=1,
    )
    total = sum(len(result.checks) for result in whole.results)
    alone = judge_some(evidence, rules, wanted, seed=1, num_checks=total)
    together = {result.gate.id: result for result in whole.results}
    assert [result.gate.id for result in alone] == list(wanted)
    for result in alone:
        assert result.reason == together[result.gate.id].reason
        assert result.state == together[result.gate.id].state == "pass"


def test_both_objectives_are_judged_when_both_are_asked() -> None:
    rules = _coarse(load_release(CONTRACT))
    spoil, gates = SPOILED["tie"]
    bad = spoil(good_evidence(2), np.random.default_rng(2))
    found = judge_some(bad, rules, gates, seed=2, num_checks=100)
    assert {result.gate.id for result in found} == {"better-on-golden", "better-on-fresh-truth"}
    assert all(fires(result) for result in found)


def test_tie_is_another_model_of_the_same_quality() -> None:
    good = good_evidence(2)
    bad = SPOILED["tie"][0](good, np.random.default_rng(2))
    for name in ("golden", "fresh"):
        right_NP, found = good.sets[name].candidate.log_odds_NP, bad.sets[name]
        assert found.champion is not None
        errors = [answers.log_odds_NP - right_NP for answers in (found.candidate, found.champion)]
        assert np.std(errors[0]) == pytest.approx(np.std(errors[1]), rel=0.05)
        assert abs(np.corrcoef(errors[0].ravel(), errors[1].ravel())[0, 1]) < 0.05


def test_worlds_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = _coarse(contract_of("no-leak", "cost-size", "cost-size-growth"))
    faults = {name: SPOILED[name] for name in ("leak", "large")}
    monkeypatch.setattr("tidegate.doctor.rates.SPOILED", faults)
    rates = measure_rates(rules, 2, processes=0)
    assert rates.is_right
    assert rates.good_held.hits == 0
    assert [(rate.what, rate.hits, rate.runs) for rate in rates.bad_passed] == [
        ("leak passed by no-leak", 0, 2),
        ("large passed by cost-size", 0, 2),
        ("large passed by cost-size-growth", 0, 2),
    ]
