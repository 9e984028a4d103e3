"""Ranking quality: what is not comparable is left out and told, and few campaigns or broken scores certify nothing."""

from dataclasses import replace

import numpy as np
import pytest

from moderation.gates import measures
from moderation.gates.evidence import Answers, Evidence, ScoredSet
from moderation.gates.judging import GateResult, Judgement, judge
from moderation.release import ReleaseContract
from tests.gate_world import (
    CANDIDATE,
    CHAMPION,
    THRESHOLDS,
    contract_of,
    evidence_of,
    scored_set,
    with_candidate,
)

assert measures.__all__

COMPARED = ("not-worse-on-golden", "not-worse-in-any-language", "better-on-golden")
_RECALL = ("golden-recall-at-block", "tier-block")
"""The second bounds the tier of the first."""


def _judged(evidence: Evidence, *gates: str, resamples: int = 400) -> dict[str, GateResult]:
    return {r.gate.id: r for r in _judgement(evidence, *gates, resamples=resamples).results}


def _judgement(evidence: Evidence, *gates: str, resamples: int = 400) -> Judgement:
    return judge(evidence, _quick(contract_of(*gates), resamples), seed=1)


def _quick(contract: ReleaseContract, resamples: int) -> ReleaseContract:
    risk = contract.risk.model_copy(update={"resamples": resamples})
    return contract.model_copy(update={"risk": risk})


def _champion(found: ScoredSet, *, without: tuple[int, ...], lacks: tuple[str, ...]) -> ScoredSet:
    """Return the set with columns of the champion that hold no number."""
    assert found.champion is not None
    log_odds_NP = found.champion.log_odds_NP.copy()
    log_odds_NP[:, list(without)] = np.nan
    return replace(found, champion=replace(found.champion, log_odds_NP=log_odds_NP, lacks=lacks))


def _tie(found: ScoredSet) -> ScoredSet:
    assert found.champion is not None
    return replace(found, candidate=replace(found.champion, bundle=CANDIDATE))


def test_tie_does_not_promote_when_the_champion_lacks_a_head() -> None:
    found = _champion(_tie(scored_set()), without=(2,), lacks=("spam",))
    judgement = _judgement(evidence_of(found), "golden-average-precision", *COMPARED)
    results = {result.gate.id: result for result in judgement.results}
    assert results["better-on-golden"].state == "not_certified"
    assert results["not-worse-on-golden"].state == "pass"
    for gate in COMPARED[:2]:
        assert not any("spam" in check.estimate.of for check in results[gate].checks)
    absolute = [check.estimate.of for check in results["golden-average-precision"].checks]
    assert absolute == ["weapons", "counterfeit", "spam"]
    assert any("new policy spam" in note and "absolute" in note for note in judgement.notes)


def test_loss_is_seen_when_the_champion_lacks_another_head() -> None:
    found = _champion(scored_set(separation=2.4), without=(2,), lacks=("spam",))
    results = _judged(evidence_of(found), "not-worse-on-golden")
    assert {result.state for result in results.values()} == {"fail"}
    assert len(results) == 2  # with the objective, of the two shared policies


def test_comparison_is_no_data_when_no_policy_is_shared() -> None:
    found = scored_set()
    results = _judged(
        evidence_of(_champion(found, without=(0, 1, 2), lacks=found.policies)), *COMPARED
    )
    assert {result.state for result in results.values()} == {"no_data"}
    assert all(
        result.blocks and "has a head for none" in result.reason for result in results.values()
    )


@pytest.mark.parametrize("gate", COMPARED)
def test_comparison_is_no_data_when_a_head_of_the_champion_broke(gate: str) -> None:
    found = _champion(scored_set(separation=4.2), without=(2,), lacks=())
    result = _judged(evidence_of(found), gate)[gate]
    assert result.state == "no_data"
    assert result.blocks
    assert "of the champion, a score is no number" in result.reason


def test_recall_is_no_data_when_innocents_have_no_number() -> None:
    found = scored_set(separation=6.0)
    log_odds_NP = np.where(found.truth_NP == 0, np.nan, found.candidate.log_odds_NP)
    good = _judged(evidence_of(found), *_RECALL)["golden-recall-at-block"]
    bad = _judged(evidence_of(with_candidate(found, log_odds_NP)), *_RECALL)
    assert good.state == "pass"
    assert bad["golden-recall-at-block"].state == "no_data"
    assert bad["golden-recall-at-block"].blocks


@pytest.mark.parametrize("known", ["plain", ""])
def test_evasion_is_no_data_when_no_violation_is_evasive(known: str) -> None:
    found = scored_set(separation=4.2)
    slices = dict(found.slices) | {"evasive": np.where(found.slices["evasive"] == "", "", known)}
    result = _judged(evidence_of(replace(found, slices=slices)), "not-worse-on-evasion")
    assert result["not-worse-on-evasion"].state == "no_data"
    assert result["not-worse-on-evasion"].blocks
    assert "weapons · evasive=evasive" in result["not-worse-on-evasion"].reason


@pytest.mark.parametrize("values", [None, ""])
def test_language_is_no_data_when_none_is_known(values: str | None) -> None:
    found = scored_set(separation=4.2)
    slices = {name: one for name, one in found.slices.items() if name != "language"}
    if values is not None:
        slices["language"] = np.full(found.num_rows, values)
    gate = "not-worse-in-any-language"
    result = _judged(evidence_of(replace(found, slices=slices)), gate)[gate]
    assert result.state == "no_data"
    assert result.blocks
    assert "language=?" in result.reason


def _of_campaigns(num_campaigns: int, found_share: float, *, seed: int) -> ScoredSet:
    """Return a set with 160 violations of so many campaigns, each found as a whole or missed as a whole."""
    rng = np.random.default_rng(seed)
    whole = scored_set(num_rows=900)
    truth_NP = np.zeros((900, 3), np.int8)
    truth_NP[:160] = 1
    group_N = np.arange(900)
    group_N[:160] %= num_campaigns
    is_hit_N = (rng.random(num_campaigns) < found_share)[group_N[:160]]
    log_odds_NP = rng.normal(-3, 1, (900, 3))
    log_odds_NP[:160] += 7.0 * is_hit_N[:, None]
    missed_NP = rng.normal(-3, 1, (900, 3))

    def answers(bundle: str, said_NP: np.ndarray) -> Answers:
        return Answers(bundle, 1 / (1 + np.exp(-said_NP)), said_NP, THRESHOLDS)

    return replace(
        whole,
        truth_NP=truth_NP,
        group=group_N,
        candidate=answers(CANDIDATE, log_odds_NP),
        champion=answers(CHAMPION, missed_NP),
        slices={"evasive": np.where(truth_NP.any(axis=1), "evasive", "")},
    )


@pytest.mark.parametrize("num_campaigns", [1, 4, 9])
def test_nothing_passes_when_violations_are_of_few_campaigns(num_campaigns: int) -> None:
    evidence = evidence_of(_of_campaigns(num_campaigns, 1.0, seed=0))
    gates = ("golden-average-precision", "not-worse-on-golden", "not-worse-on-evasion")
    results = _judged(evidence, *gates, *_RECALL)
    for gate in (*gates, "better-on-golden", "golden-recall-at-block"):
        assert results[gate].state == "not_certified"
        assert results[gate].blocks
        assert f"worth {num_campaigns}.0 groups" in results[gate].reason
        assert "take 10 sellers and campaigns with violations" in results[gate].reason


def test_all_passes_when_violations_are_of_campaigns_enough() -> None:
    evidence = evidence_of(_of_campaigns(40, 1.0, seed=0))
    gates = ("golden-average-precision", "not-worse-on-golden", "golden-recall-at-block")
    results = _judged(evidence, *gates, "tier-block")
    assert {results[gate].state for gate in (*gates, "better-on-golden")} == {"pass"}


@pytest.mark.parametrize("num_campaigns", [1, 3, 10])
def test_bad_model_rarely_passes_when_campaigns_are_few(num_campaigns: int) -> None:
    passed = 0
    for seed in range(15):  # of a true share of .5, beside a limit of .70
        evidence = evidence_of(_of_campaigns(num_campaigns, 0.5, seed=seed))
        results = _judged(evidence, "golden-average-precision", resamples=200)
        passed += results["golden-average-precision"].state == "pass"
    assert passed <= 1
