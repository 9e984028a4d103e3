"""Listings that do not say what they are sliced by: judged like a value, and no reason to hold a candidate if few."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from moderation.gates import measures
from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import GateResult, judge
from tests.gate_rates import FAIRNESS, calibrated_traffic, judged, sized_set
from tests.gate_world import contract_of, evidence_of, scored_set

assert measures.__all__, "importing them makes the contract's measures known"

Flags = npt.NDArray[np.bool_]
LOST, SUSPECTED = -6.0, 3.0
CALIBRATED_SLICES = "calibration-by-slice-high"


def _hidden(found: ScoredSet, name: str, share: float) -> tuple[ScoredSet, Flags]:
    """Return a set in which a share of the sellers does not name `name`, and their rows."""
    drawn_G = np.random.default_rng(3).random(int(found.group.max()) + 1) < share
    hidden_N = drawn_G[found.group]
    values_N = np.where(hidden_N, "", found.slices[name])
    return replace(found, slices={**found.slices, name: values_N}), hidden_N


def _said(found: ScoredSet, chosen_NP: Flags, log_odds: float) -> ScoredSet:
    odds_NP = np.where(chosen_NP, log_odds, found.candidate.log_odds_NP)
    said = replace(found.candidate, log_odds_NP=odds_NP, probability_NP=1 / (1 + np.exp(-odds_NP)))
    return replace(found, candidate=said)


def _result(found: ScoredSet, gate: str) -> GateResult:
    [result] = [one for one in judged(found, gate).results if one.gate.id == gate]
    return result


def _states(found: ScoredSet, gate: str) -> dict[str, str]:
    return {check.estimate.of: check.state for check in _result(found, gate).checks}


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_fair_candidate_is_not_held_for_what_sellers_do_not_say(share: float) -> None:
    found, hidden_N = _hidden(sized_set(1_600, seed=2), "language", share)
    assert hidden_N.any()
    assert judged(found, *FAIRNESS).is_passing
    assert any("unknown" in of for of in _states(found, "fair-false-positives"))


@pytest.mark.parametrize(
    ("gate", "name", "truth", "log_odds"),
    [
        ("fair-true-positives", "language", 1, LOST),
        ("fair-false-positives", "region", 0, SUSPECTED),
    ],
)
def test_those_who_say_nothing_are_treated_as_fairly(
    gate: str, name: str, truth: int, log_odds: float
) -> None:
    found, hidden_N = _hidden(sized_set(1_600, seed=2), name, 0.1)
    broken = _said(found, (found.truth_NP == truth) & hidden_N[:, None], log_odds)
    result = _result(broken, gate)
    assert (result.state, result.blocks) == ("fail", True)
    assert f"{name} unknown" in result.reason
    assert _result(found, gate).state == "pass"
    scanned = _result(broken, "fair-intersections")
    assert scanned.blocks
    assert f"{name} unknown" in scanned.reason


def test_a_few_are_held_against_a_candidate_where_they_show_it() -> None:
    found, hidden_N = _hidden(sized_set(1_600, seed=2), "region", 0.008)
    innocent_NP = (found.truth_NP == 0) & hidden_N[:, None]
    assert 20 < innocent_NP[:, 0].sum() < 100, "fewer than the gate certifies with"
    checks = _states(found, "fair-false-positives")
    assert {state for of, state in checks.items() if "unknown" in of} == {"pass"}
    assert _result(_said(found, innocent_NP, SUSPECTED), "fair-false-positives").state == "fail"


@pytest.mark.parametrize(("share", "state"), [(0.01, "not_certified"), (0.3, "fail")])
def test_no_language_is_a_language_beside_the_champion(share: float, state: str) -> None:
    gate = "not-worse-in-any-language"
    good = scored_set(num_rows=6_000)
    assert good.champion is not None
    good = replace(good, candidate=replace(good.champion, bundle=good.candidate.bundle))
    found, hidden_N = _hidden(good, "language", share)
    assert _result(found, gate).state == "pass"
    lost = _said(found, (found.truth_NP == 1) & hidden_N[:, None], LOST)
    checks = _states(lost, gate)
    assert {one for of, one in checks.items() if of.endswith("language unknown")} == {state}
    assert {one for of, one in checks.items() if "=" in of} == {"pass"}
    assert _result(lost, gate).blocks


def _of_few_campaigns(num_campaigns: int, log_odds: float | None) -> ScoredSet:
    """Return a set in which so many campaigns of 30 violations, and innocent rows, name no language."""
    found = scored_set(num_rows=9_000, separation=4.5, champion_separation=4.5, seed=3)
    rng, alone = np.random.default_rng(1), (found.truth_NP[:, 1:] == 0).all(axis=1)
    guilty = np.flatnonzero(alone & (found.truth_NP[:, 0] == 1))
    innocent = np.flatnonzero(alone & (found.truth_NP[:, 0] == 0))
    chosen = rng.choice(guilty, 30 * num_campaigns, replace=False)
    names, group = found.slices["language"].copy(), found.group.copy()
    names[chosen] = names[rng.choice(innocent, 800, replace=False)] = ""
    group[chosen] = 10**6 + np.arange(len(chosen)) % num_campaigns
    found = replace(found, slices={**found.slices, "language": names}, group=group)
    if log_odds is None:
        return found
    lost_NP = np.zeros(found.truth_NP.shape, bool)
    lost_NP[chosen, 0] = True
    return _said(found, lost_NP, log_odds)


@pytest.mark.parametrize(
    ("log_odds", "state"), [(None, "pass"), (-8.0, "not_certified")], ids=["good", "all lost"]
)
def test_few_campaigns_hold_a_candidate_that_loses_them(log_odds: float | None, state: str) -> None:
    result = _result(_of_few_campaigns(9, log_odds), "not-worse-in-any-language")
    assert (result.state, result.blocks) == (state, log_odds is not None)
    [check] = [one for one in result.checks if one.estimate.of == "weapons · language unknown"]
    assert "too few to show more" in check.reason
    assert ("wrong at 0.95" in check.reason) == result.blocks


def _of_few_listings(num_guilty: int, log_odds: float | None, weight: float = 1.0) -> ScoredSet:
    """Return calibrated traffic in which 130 innocent listings and so many violations name no language."""
    found = calibrated_traffic(300_000, thinned=20)
    alone, rng = found.weight == weight, np.random.default_rng(0)
    innocent = np.flatnonzero(alone & (found.truth_NP == 0).all(axis=1))
    guilty = np.flatnonzero((found.weight == 1) & (found.truth_NP[:, 0] == 1))
    hidden_NP = np.zeros(found.truth_NP.shape, bool)
    hidden_NP[rng.choice(innocent, 130, replace=False), 0] = True
    hidden_NP[rng.permutation(guilty)[:num_guilty], 0] = True
    names = np.where(hidden_NP[:, 0], "", found.slices["language"])
    found = replace(found, slices={**found.slices, "language": names})
    return found if log_odds is None else _said(found, hidden_NP, log_odds)


@pytest.mark.parametrize(
    ("num_guilty", "state"), [(0, "fail"), (1, "fail"), (5, "not_certified"), (9, "not_certified")]
)
def test_few_listings_hold_who_predicts_violations_there(num_guilty: int, state: str) -> None:
    result = _result(_of_few_listings(num_guilty, 2.5), CALIBRATED_SLICES)
    assert (result.state, result.blocks) == (state, True)
    [check] = [one for one in result.checks if one.estimate.of == "weapons · language unknown"]
    assert check.state == state


def test_listings_of_one_seller_are_one_prediction() -> None:
    found = _of_few_listings(0, 2.5)
    alone = replace(found, group=np.where(found.slices["language"] == "", 10**6, found.group))
    checks = _states(alone, CALIBRATED_SLICES)
    assert checks["weapons · language unknown"] == "pass"


def test_few_listings_hold_no_calibrated_candidate() -> None:
    found, hidden_N = _hidden(calibrated_traffic(300_000, thinned=20), "language", 0.003)
    assert 0 < (found.truth_NP[hidden_N] == 1).sum(axis=0).max() < 60
    checks = _states(found, CALIBRATED_SLICES)
    assert {state for of, state in checks.items() if "unknown" in of} == {"pass"}


def test_none_known_of_few_predicted_shows_nothing_wrong() -> None:
    found = _of_few_listings(0, None, weight=20.0)
    for gate in ("calibration-by-slice-low", CALIBRATED_SLICES):
        result = _result(found, gate)
        [check] = [one for one in result.checks if one.estimate.of == "weapons · language unknown"]
        assert check.state == "pass"
        assert "none known" in check.reason


def test_scores_that_are_no_number_are_no_prediction() -> None:
    found = _of_few_listings(0, np.nan)
    assert not any("weapons · language unknown" in of for of in _states(found, CALIBRATED_SLICES))
    assert _result(found, "calibration-overall-high").blocks


@pytest.mark.parametrize("log_odds", [-9.0, 9.0])
def test_no_region_is_a_region_of_calibration(log_odds: float) -> None:
    name = "calibration-by-slice-low" if log_odds < 0 else "calibration-by-slice-high"
    found, hidden_N = _hidden(scored_set("traffic", num_rows=6_000), "region", 0.3)
    broken = _said(found, np.repeat(hidden_N[:, None], 3, axis=1), log_odds)
    checks = _states(broken, name)
    assert {state for of, state in checks.items() if of.endswith("region unknown")} == {"fail"}


@pytest.mark.parametrize(("share", "state"), [(0.002, "not_certified"), (0.03, "fail")])
def test_no_category_takes_the_whole_change_unseen(share: float, state: str) -> None:
    found = scored_set("replay")
    assert found.champion is not None
    names = ("category", "region", "language")
    slices = {name: np.array(["x", "y"] * 1_500) for name in names}
    found = replace(
        found,
        candidate=replace(found.champion, bundle="a" * 64),
        truth_NP=np.full_like(found.truth_NP, -1),
        slices=slices,
    )
    found, hidden_N = _hidden(found, "category", share)
    assert 0 < hidden_N.sum() < 150
    held = _said(found, np.repeat(hidden_N[:, None], 3, axis=1), SUSPECTED)
    results = judge(evidence_of(held), contract_of("replay-by-segment"), seed=1).results
    [result] = [one for one in results if one.gate.id == "replay-by-segment"]
    assert (result.state, result.blocks) == (state, True)
    assert "category unknown" in result.reason


def test_set_without_a_violation_blocks_and_is_no_crash() -> None:
    found = scored_set()
    none = replace(found, truth_NP=np.zeros_like(found.truth_NP))
    result = _result(none, "fair-true-positives")
    assert (result.state, result.blocks) == ("no_data", True)
