"""Fairness gates: fair candidates pass, unfair ones do not, and what is too small is named, never passed."""

from dataclasses import replace

import numpy as np
import pytest

from moderation.gates.evidence import ScoredSet
from moderation.gates.intersections import intersections_found
from moderation.gates.judging import Context, GateResult
from tests.gate_rates import FAIRNESS, broken_language, judged, sized_set
from tests.gate_world import contract_of, evidence_of, with_candidate

SLICE_NAMES = ("language", "region", "category", "seller_age", "seller_size", "price_band")


def _result(found: ScoredSet, gate: str) -> GateResult:
    return judged(found, gate).results[0]


def _with_slice(found: ScoredSet, name: str, values: object) -> ScoredSet:
    return replace(found, slices={**found.slices, name: np.asarray(values)})


def test_fair_candidate_passes_when_the_set_is_adequate() -> None:
    passed = [judged(sized_set(1_200, seed=seed), *FAIRNESS).is_passing for seed in range(4)]
    assert sum(passed) >= 3


def test_unfair_language_is_blocked_every_time() -> None:
    for seed in range(10):
        result = _result(broken_language(sized_set(600, seed=seed), 0.25), "fair-true-positives")
        assert result.blocks
    found = broken_language(sized_set(1_200), 0.45)
    result = _result(found, "fair-true-positives")
    assert result.state == "fail"
    failed = {check.estimate.of for check in result.checks if check.state == "fail"}
    assert failed == {f"{policy} · language" for policy in found.policies}
    assert "furthest language=pl: finds 0." in result.reason


def test_more_evasion_alone_is_not_unfair() -> None:
    found = sized_set(3_000)
    checks = _result(found, "fair-true-positives").checks
    language = next(check for check in checks if check.estimate.of == "weapons · language")
    pl = language.estimate.detail["values"]["pl"]
    assert pl["unstandardised_rate"] < pl["rate"] - 0.02  # half of its violations hide
    assert abs(pl["gap"]) < 0.05
    assert language.estimate.detail["stratified_by"] == "evasive"


def test_small_value_is_named_and_not_certified() -> None:
    found = sized_set(1_200)
    rows = np.arange(found.num_rows)
    rare = _with_slice(found, "language", np.where(rows % 100 == 0, "xx", found.slices["language"]))
    result = _result(rare, "fair-true-positives")
    assert result.state == "not_certified"
    assert result.blocks
    assert "too few positives in language=xx (" in result.reason
    assert "positives in language=xx" in result.reason.split("it would take")[1]


def test_value_without_a_violation_is_not_certified() -> None:
    found = sized_set(1_200)
    is_plain = (found.truth_NP == 0).all(axis=1) & (np.arange(found.num_rows) % 5 == 0)
    rare = _with_slice(found, "language", np.where(is_plain, "xx", found.slices["language"]))
    result = _result(rare, "fair-true-positives")
    assert result.state == "not_certified"
    assert "language=xx (0)" in result.reason


def test_needed_rows_match_the_formula() -> None:
    result = _result(sized_set(200), "fair-true-positives")
    needed = [check.estimate.needed for check in result.checks if check.estimate.needed]
    assert needed
    assert all(60 <= number <= 300 for number in needed)  # about 150, were rows alone


@pytest.mark.parametrize("gate", FAIRNESS)
def test_missing_slice_is_no_data(gate: str) -> None:
    found = sized_set(400)
    lacking = replace(found, slices={n: v for n, v in found.slices.items() if n != "region"})
    result = _result(lacking, gate)
    assert result.state == "no_data"
    assert "region: the set has no such slice" in result.reason


def test_single_value_is_no_data() -> None:
    found = sized_set(400)
    result = _result(
        _with_slice(found, "region", ["north"] * found.num_rows), "fair-true-positives"
    )
    assert result.state == "no_data"
    assert "only north: there is nothing to compare with" in result.reason


@pytest.mark.parametrize("gate", FAIRNESS)
def test_closed_tiers_are_no_data_not_a_tie(gate: str) -> None:
    found = sized_set(400)
    closed = replace(found, candidate=replace(found.candidate, thresholds={}))
    result = _result(closed, gate)
    assert result.state == "no_data"
    assert "nothing is flagged" in result.reason


@pytest.mark.parametrize("gate", FAIRNESS)
def test_score_that_is_no_number_is_no_data(gate: str) -> None:
    found = sized_set(400)
    log_odds_NP = np.where(
        np.arange(found.num_rows)[:, None] == 3, np.nan, found.candidate.log_odds_NP
    )
    assert _result(with_candidate(found, log_odds_NP), gate).state == "no_data"


def test_raised_false_positives_of_one_region_are_blocked() -> None:
    found = sized_set(600)
    rng = np.random.default_rng(2)
    there_N = (found.slices["region"] == "east") & (rng.random(found.num_rows) < 0.25)
    log_odds_NP = np.where(
        there_N[:, None] & (found.truth_NP == 0), 2.0, found.candidate.log_odds_NP
    )
    result = _result(with_candidate(found, log_odds_NP), "fair-false-positives")
    assert result.state == "fail"
    assert "furthest region=east: flags" in result.reason


def test_combination_is_found_when_single_values_look_fair() -> None:
    found = sized_set(1_200)
    rng = np.random.default_rng(2)
    there_N = (found.slices["language"] == "pl") & (found.slices["region"] == "east")
    lost_NP = there_N[:, None] & (found.truth_NP == 1) & (rng.random(found.truth_NP.shape) < 0.9)
    broken = with_candidate(found, np.where(lost_NP, -4.0, found.candidate.log_odds_NP))
    result = _result(broken, "fair-intersections")
    assert result.state == "fail"
    first = result.checks[0].estimate.detail["found"][0]
    assert first["of"] == "language=pl and region=east"
    assert first["rate"] < 0.2 < first["others"]
    assert "in language=pl and region=east finds 0." in result.reason


def test_combinations_are_counted_when_too_small() -> None:
    detail = _result(sized_set(60), "fair-intersections").checks[0].estimate.detail
    assert detail["too_small"] > 0
    assert detail["scanned"] > 0


def test_smallest_combination_is_what_the_contract_says() -> None:
    found, contract = sized_set(60), contract_of("fair-intersections")
    counts = {}
    for fewest in (1, 10, 10_000):
        slices = contract.slices.model_copy(update={"min_combination": fewest})
        changed = contract.model_copy(update={"slices": slices})
        context = Context(evidence_of(found), changed, seed=1)
        (estimate,) = intersections_found(context, changed.gate("fair-intersections"))
        counts[fewest] = estimate.detail.get("scanned", 0)
    assert counts[1] > counts[10] > counts[10_000] == 0


def test_rates_of_the_pack_are_those_of_each_value() -> None:
    found = sized_set(300)
    check = _result(found, "fair-false-positives").checks[0]
    value, facts = next(iter(check.estimate.detail["values"].items()))
    rows_N = (found.slices["language"] == value) & (found.truth_NP[:, 0] == 0)
    flagged_N = found.candidate.probability_NP[:, 0] >= 0.2
    assert facts["unstandardised_rate"] == pytest.approx(flagged_N[rows_N].mean())
    assert facts["rate"] == pytest.approx(facts["unstandardised_rate"])
    assert facts["rows"] == rows_N.sum()
