"""Mutation: a wrong number in the contract is noticed, unless no candidate rests on it."""

import numpy as np

from moderation.gates import measures
from moderation.gates.evidence import Evidence
from moderation.release import ReleaseContract
from tests.gate_world import contract_of
from tidegate.doctor.candidates import GOOD, Candidate, Entry
from tidegate.doctor.drawn import good_evidence
from tidegate.doctor.mutation import CHANGES, summary, survey, survivors
from tidegate.doctor.spoiled import SPOILED
from tidegate.doctor.workshop import Workshop

assert measures.__all__, "importing them makes the contract's measures known"


def _never(shop: Workshop, name: str) -> Entry:
    raise AssertionError("nobody enters here")


_NOISE = Candidate("noise", "", _never, SPOILED["noise"][1])
_LEAK = Candidate("leak", "", _never, ("no-leak",))
_FINE = Candidate(GOOD, "", _never)


def _evidence_of(name: str) -> Evidence:
    good = good_evidence(3)
    if name == GOOD:
        return good
    spoil, _ = SPOILED[name]
    return spoil(good, np.random.default_rng(3))


def _rules() -> ReleaseContract:
    rules = contract_of("no-leak", "golden-average-precision")
    return rules.model_copy(update={"risk": rules.risk.model_copy(update={"resamples": 200})})


def test_every_change_is_noticed_when_pairs_are_there() -> None:
    mutants = survey(_rules(), _evidence_of, (_FINE, _NOISE, _LEAK))
    assert survivors(mutants) == []
    tried = {(mutant.gate, mutant.change) for mutant in mutants}
    assert ("golden-average-precision", "confidence absurd") in tried
    assert ("no-leak", "confidence absurd") not in tried  # a count of everything has no error
    assert ("no-leak", "min_positives absurd") not in tried  # the gate asks for none


def test_processes_find_what_one_finds() -> None:
    few = (_FINE, _LEAK)
    assert survey(_rules(), _evidence_of, few, processes=2) == survey(_rules(), _evidence_of, few)


def test_a_change_survives_when_the_bad_candidate_is_gone() -> None:
    left = survivors(survey(_rules(), _evidence_of, (_FINE, _NOISE)))
    assert {(one.gate, one.change) for one in left} == {
        ("no-leak", "limit far to the permissive side"),
        ("no-leak", "comparator flipped"),
    }


def test_the_good_candidate_notices_what_is_too_strict() -> None:
    mutants = survey(_rules(), _evidence_of, (_FINE, _NOISE, _LEAK))
    strict = [one for one in mutants if one.change == "limit far to the strict side"]
    assert {one.noticed_by for one in strict} == {GOOD}


def test_the_summary_counts_every_kind_of_change() -> None:
    table = summary(survey(_rules(), _evidence_of, (_FINE, _NOISE)))
    assert all(change in table for change in CHANGES)
    assert "| limit far to the permissive side | 3 | 2 |" in table


def test_a_good_candidate_that_lets_nothing_go_leaves_confidence_alone() -> None:
    fault = "6 % of violations passed unread"
    opened = Candidate(fault, "", _never, SPOILED[fault][1])
    rules = contract_of("prefilter-recall")
    rules = rules.model_copy(update={"risk": rules.risk.model_copy(update={"resamples": 200})})
    mutants = [
        one
        for one in survey(rules, _evidence_of, (_FINE, opened))
        if one.gate == "prefilter-recall"
    ]
    assert survivors(mutants) == []
    assert "confidence absurd" not in {one.change for one in mutants}
