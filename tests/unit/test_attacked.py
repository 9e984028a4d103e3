"""Gates on attacks: each attack is judged by itself, beside the champion, and nothing that is lacking passes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moderation.attacks.registry import ATTACKS
from moderation.gates import attacked, measures
from moderation.gates.evidence import AttackOutcome, Evidence, ScoredSet
from moderation.gates.judging import Check, Context, GateResult, judge
from moderation.gates.withstanding import candidate_and_champion, hard_examples, table_row
from moderation.release import Gate
from tests.gate_world import CANDIDATE, CHAMPION, contract_of, evidence_of, scored_set

SEED = 3
GATES = (
    "attacks-worst-recall",
    "attacks-worst-recall-by-policy",
    "attacks-mean-recall",
    "attacks-worst-false-positives",
    "attacks-mean-false-positives",
    "attacks-white-box-works",
)
HIDES_ALL = 0.0
assert measures.__all__


def _outcome(
    golden: ScoredSet,
    name: str,
    *,
    kept: float = 0.95,
    gained: float = 0.0,
    champion_kept: float = 0.95,
    rows: int = 1_200,
    **changes: Any,
) -> AttackOutcome:
    """Return an attack under which a share of the violations stays found, and of the innocents gets flagged."""
    rng = np.random.default_rng(sum(map(ord, name)))
    row_R = np.sort(rng.permutation(golden.num_rows)[:rows])
    truth_RP = golden.truth_NP[row_R]

    def after(before_RP: np.ndarray, share: float) -> np.ndarray:
        stays_RP = rng.random(truth_RP.shape) < share
        flagged_R = rng.random(len(row_R)) < gained
        innocent_RP = np.where(flagged_R[:, None], 0.9, np.minimum(before_RP, 0.1))
        return np.where(truth_RP == 1, np.where(stays_RP, before_RP, 0.01), innocent_RP)

    champion_RP = None
    if golden.champion is not None:
        champion_RP = after(golden.champion.probability_NP[row_R], champion_kept)
    candidate_RP = after(golden.candidate.probability_NP[row_R], kept)
    fields: dict[str, Any] = {"family": "text", "severity": 1.0} | changes
    return AttackOutcome(
        name=name, row_R=row_R, candidate_RP=candidate_RP, champion_RP=champion_RP, **fields
    )


def _evidence(golden: ScoredSet | None = None, **by_attack: dict[str, Any]) -> Evidence:
    """Return evidence on every registered attack, and on a white-box attack that succeeds."""
    golden = golden or scored_set()
    box = {"family": "white_box", "severity": math.inf, "kept": HIDES_ALL}
    wanted = {name: by_attack.get(name, {}) for name in [*ATTACKS, *by_attack]}
    wanted = {"joint_unlimited": box} | wanted
    outcomes = tuple(_outcome(golden, name, **fields) for name, fields in wanted.items())
    return evidence_of(golden, attacks=outcomes)


def _results(evidence: Evidence, *gates: str, **changes: Any) -> dict[str, GateResult]:
    contract = contract_of(*(gates or GATES), **changes)
    quick = contract.risk.model_copy(update={"resamples": 400})
    judged = judge(evidence, contract.model_copy(update={"risk": quick}), seed=SEED)
    return {result.gate.id: result for result in judged.results}


def _check(result: GateResult, name: str) -> Check:
    return next(check for check in result.checks if check.estimate.of == name)


def test_candidate_passes_when_it_withstands() -> None:
    results = _results(_evidence())
    assert {name: results[name].state for name in GATES} == dict.fromkeys(GATES, "pass")
    assert len(results["attacks-worst-recall"].checks) == len(ATTACKS)


def test_one_attack_that_hides_violations_is_named() -> None:
    results = _results(_evidence(leet={"kept": 0.2}))
    worst = results["attacks-worst-recall"]
    assert worst.state == "fail"
    assert worst.blocks
    assert "leet" in worst.reason
    assert "zero_width" not in worst.reason
    assert results["attacks-mean-recall"].state == "pass"


def test_one_attack_that_flags_innocents_is_named() -> None:
    results = _results(_evidence(zero_width={"gained": 0.9}))
    worst = results["attacks-worst-false-positives"]
    assert worst.state == "fail"
    assert "zero_width" in worst.reason
    assert results["attacks-worst-recall"].state == "pass"


def test_many_weak_attacks_fail_the_mean_alone() -> None:
    weak: dict[str, Any] = {name: {"kept": 0.62, "gained": 0.36} for name in ATTACKS}
    results = _results(_evidence(**weak))
    assert results["attacks-worst-recall"].state == results["attacks-worst-false-positives"].state
    assert results["attacks-worst-recall"].state == "pass"
    assert results["attacks-mean-recall"].state == "fail"
    assert results["attacks-mean-false-positives"].state == "fail"


def test_white_box_that_fails_says_the_suite_is_broken() -> None:
    evidence = _evidence(joint_unlimited={"family": "white_box", "severity": math.inf, "kept": 0.9})
    result = _results(evidence)["attacks-white-box-works"]
    assert result.state == "fail"
    assert "joint_unlimited" in result.reason


def test_limited_white_box_is_told_but_not_judged() -> None:
    limited = {"family": "white_box", "severity": 1.0, "kept": 0.9}
    results = _results(_evidence(pgd=limited))
    (check,) = results["attacks-white-box-works"].checks
    assert [line["attack"] for line in check.estimate.detail["limited"]] == ["pgd"]
    assert "pgd" not in {c.estimate.of for c in results["attacks-worst-recall"].checks}


def test_nothing_passes_when_no_attack_was_made() -> None:
    why = {"attacks": "the bundle's towers are gone; train again"}
    results = _results(replace(_evidence(), attacks=(), missing=why))
    assert {results[name].state for name in GATES} == {"no_data"}
    assert all("towers are gone" in results[name].reason for name in GATES)
    without_golden = replace(_evidence(), sets={})
    assert {_results(without_golden)[name].state for name in GATES} == {"no_data"}


def test_attack_that_was_left_out_is_no_data() -> None:
    evidence = _evidence()
    fewer = tuple(one for one in evidence.attacks if one.name != "leet")
    worst = _results(replace(evidence, attacks=fewer))["attacks-worst-recall"]
    assert worst.state == "no_data"
    assert worst.blocks
    assert "leet" in worst.reason


def test_other_severities_are_not_judged() -> None:
    evidence = _evidence()
    strong = _outcome(scored_set(), "leet", kept=0.0, severity=2.0)
    results = _results(replace(evidence, attacks=(*evidence.attacks, strong)))
    assert results["attacks-worst-recall"].state == "pass"


def test_small_sample_is_not_certified_and_says_what_it_takes() -> None:
    few = _check(_results(_evidence(crop={"rows": 60}))["attacks-worst-recall"], "crop")
    assert few.state == "not_certified"
    assert few.estimate.positives < 60
    assert "60 positives" in few.reason


def test_attack_without_any_found_violation_is_no_data() -> None:
    golden = scored_set()
    honest = np.flatnonzero(~(golden.truth_NP == 1).any(axis=1))[:100]
    answers = golden.candidate.probability_NP[honest]
    empty = AttackOutcome("crop", "image", 1.0, honest, answers, answers)
    others = tuple(one for one in _evidence(golden).attacks if one.name != "crop")
    result = _results(evidence_of(golden, attacks=(*others, empty)))["attacks-worst-recall"]
    assert _check(result, "crop").state == "no_data"
    assert "no violation that it applies to is found" in result.reason


def test_score_that_is_no_number_is_no_data() -> None:
    evidence = _evidence()
    broken = replace(
        evidence.attacks[1], candidate_RP=np.full_like(evidence.attacks[1].candidate_RP, np.nan)
    )
    results = _results(
        replace(evidence, attacks=(evidence.attacks[0], broken, *evidence.attacks[2:]))
    )
    for gate in GATES[:4]:
        assert results[gate].state == "no_data"
        assert "no number" in results[gate].reason


def _versus(limit: float, comparator: str) -> dict[str, Any]:
    return {"versus": "champion", "limit": limit, "comparator": comparator}


def test_candidate_is_judged_beside_the_champion() -> None:
    worse = _evidence(blur={"kept": 0.5, "champion_kept": 0.95})
    gate = "attacks-worst-recall"
    result = _results(worse, gate, **_versus(-0.2, "at_least"))[gate]
    assert result.state == "fail"
    assert _check(result, "blur").estimate.value == pytest.approx(-0.45, abs=0.08)
    assert _check(result, "crop").state == "pass"
    mean = "attacks-mean-recall"
    assert _results(worse, mean, **_versus(-0.2, "at_least"))[mean].state == "pass"
    equal = "attacks-mean-false-positives"
    assert _results(worse, equal, **_versus(0.02, "at_most"))[equal].state == "pass"


def test_champion_that_was_not_attacked_is_no_data() -> None:
    evidence = _evidence()
    alone = replace(evidence.attacks[1], champion_RP=None)
    attacks = (evidence.attacks[0], alone, *evidence.attacks[2:])
    for gate in ("attacks-worst-recall", "attacks-mean-recall"):
        result = _results(replace(evidence, attacks=attacks), gate, **_versus(-0.2, "at_least"))[
            gate
        ]
        assert result.state == "no_data"
        assert "not attacked" in result.reason


def test_row_of_the_table_matches_a_count_by_hand() -> None:
    golden = scored_set()
    outcome = _outcome(golden, "leet", kept=0.6, gained=0.3)
    mine, other = candidate_and_champion(golden, outcome)
    row = table_row(mine, other)
    found = kept = innocents = gained = 0
    for place, number in enumerate(outcome.row_R.tolist()):
        before, after = golden.candidate.probability_NP[number], outcome.candidate_RP[place]
        truth = golden.truth_NP[number]
        found += sum(before[p] >= 0.2 for p in range(3) if truth[p] == 1)
        kept += sum(before[p] >= 0.2 <= after[p] for p in range(3) if truth[p] == 1)
        if not truth.any() and (before < 0.2).all():
            innocents += 1
            gained += bool((after >= 0.2).any())
    assert row["kept"] == pytest.approx(kept / found)
    assert row["innocents"] == innocents
    assert row["gained"] == pytest.approx(gained / innocents)
    assert row["recall_before"] == pytest.approx(found / row["violations"])
    assert row["shift"] < 0
    assert row["champion"]["kept"] != row["kept"]


def test_closed_review_falls_to_the_next_tier_or_none() -> None:
    golden = scored_set()
    outcome = _outcome(golden, "leet")
    closed = {"weapons": {"block": 0.9}, "counterfeit": {"tag": 0.01}, "spam": {}}
    answers = replace(golden.candidate, thresholds=closed)
    mine, _ = candidate_and_champion(replace(golden, candidate=answers), outcome)
    assert mine.limit_P.tolist() == [0.9, math.inf, math.inf]
    assert not mine.found_RP[:, 1:].any()


def test_unknown_truth_counts_nowhere() -> None:
    golden = scored_set()
    outcome = _outcome(golden, "leet", gained=1.0)
    unknown = replace(golden, truth_NP=np.full_like(golden.truth_NP, -1))
    mine, _ = candidate_and_champion(unknown, outcome)
    assert not mine.found_RP.any()
    assert not mine.clear_R.any()


def test_intervals_know_that_groups_fail_together() -> None:
    loose = scored_set()
    tight = replace(loose, group=loose.group // 20)
    widths = []
    for golden in (loose, tight):
        lost_N = golden.group % 3 == 0
        row_R = np.arange(golden.num_rows)
        before = golden.candidate.probability_NP
        outcome = AttackOutcome(
            "leet", "text", 1.0, row_R, np.where(lost_N[:, None], 0.0, before), None
        )
        context = Context(evidence_of(golden, attacks=(outcome,)), contract_of(*GATES), SEED)
        gate: Gate = context.contract.gate("attacks-worst-recall")
        found = next(one for one in attacked.worst_recall_kept(context, gate) if one.of == "leet")
        assert found.spread is not None
        widths.append(found.spread.high(0.95) - found.spread.low(0.95))
    assert widths[1] > 2 * widths[0]


def test_hard_examples_are_what_was_turned() -> None:
    golden = scored_set()
    evidence = _evidence(golden, leet={"kept": 0.5, "gained": 0.2})
    found = hard_examples(evidence)
    by_leet = [one for one in found if one.attack == "leet"]
    assert {one.truth for one in by_leet} == {0, 1}
    assert all((one.after < 0.2 <= one.before) == (one.truth == 1) for one in by_leet)
    assert all(one.bundle == CANDIDATE != CHAMPION for one in found)
    moves = [abs(one.after - one.before) for one in found]
    assert moves == sorted(moves, reverse=True)
    assert by_leet[0].like["language"] in ("en", "de", "pl")
    assert "joint_unlimited" not in {one.attack for one in found}
    assert hard_examples(replace(evidence, sets={})) == []


def _without(outcome: AttackOutcome, golden: ScoredSet, column: int) -> AttackOutcome:
    """Return the outcome with every violation of one policy hidden."""
    after_RP = outcome.candidate_RP.copy()
    after_RP[golden.truth_NP[outcome.row_R, column] == 1, column] = 0.01
    return replace(outcome, candidate_RP=after_RP)


@pytest.mark.parametrize("hidden", ["leet", "crop"])
def test_policy_that_one_attack_wipes_out_is_held(hidden: str) -> None:
    evidence = _evidence()
    golden = evidence.sets["golden"]
    attacks = [_without(a, golden, 0) if a.name == hidden else a for a in evidence.attacks]
    results = _results(replace(evidence, attacks=tuple(attacks)))
    assert results["attacks-worst-recall"].state == "pass", "the other policies outweigh it"
    by_policy = results["attacks-worst-recall-by-policy"]
    assert (by_policy.state, by_policy.blocks) == ("fail", True)
    assert f"{golden.policies[0]} · {hidden}" in by_policy.reason
    assert _results(evidence)["attacks-worst-recall-by-policy"].state == "pass"
