"""The judge: every state is reached, nothing that is not shown passes, and a good candidate is rarely failed."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from moderation.errors import PolicyError
from moderation.gates import measures
from moderation.gates.estimates import Estimate, Exact, Proportion, Resampled, nothing, rows_needed
from moderation.gates.judging import Judgement, State, check_of, judge
from moderation.release import Gate
from tests.gate_world import CANDIDATE, contract_of, evidence_of, scored_set, with_candidate

SEED = 3
assert measures.__all__


def _gate(**changes: object) -> Gate:
    fields = {
        "id": "some-gate",
        "why": "for a test of the judge",
        "measure": "some",
        "set": "golden",
        "comparator": "at_least",
        "limit": 0.5,
        "min_rows": 10,
    }
    return Gate.model_validate(fields | changes)


def _estimate(successes: float, trials: int, **changes: object) -> Estimate:
    spread = Proportion(successes, trials)
    value = successes / trials if trials else None
    return replace(Estimate("p", value, spread, trials, positives=trials), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [(90, 100, "pass"), (10, 100, "fail"), (55, 100, "not_certified"), (9, 9, "not_certified")],
)
def test_check_reaches_every_state(successes: int, trials: int, expected: State) -> None:
    assert check_of(_gate(), _estimate(successes, trials), 0.999).state == expected


def test_check_mirrors_when_the_comparator_is_at_most() -> None:
    gate = _gate(comparator="at_most")
    assert check_of(gate, _estimate(90, 100), 0.999).state == "fail"
    assert check_of(gate, _estimate(10, 100), 0.999).state == "pass"


def test_check_is_no_data_when_nothing_was_measured() -> None:
    check = check_of(_gate(min_positives=60), nothing("p", "no violation"), 0.999)
    assert check.state == "no_data"
    assert "no violation; it would take 10 rows and 60 positives" in check.reason
    assert check_of(_gate(), Estimate("p", float("nan"), Exact(0.0), 50), 0.99).state == "no_data"


def test_check_fails_small_samples_when_they_show_it() -> None:
    assert check_of(_gate(min_rows=500), _estimate(2, 100), 0.999).state == "fail"


def test_tie_does_not_promote() -> None:
    gate = _gate(comparator="more_than", versus="champion", limit=0.0)
    equal = Estimate("", 0.0, Resampled(0.0, np.zeros(500)), 500)
    assert check_of(gate, equal, 0.999).state == "not_certified"


def _judged(separation: float, **changes: float) -> Judgement:
    found = scored_set(separation=separation, champion_separation=3.5, **changes)  # type: ignore[arg-type]
    gates = ("golden-average-precision", "not-worse-on-golden", "better-on-golden")
    return judge(evidence_of(found), contract_of(*gates), seed=SEED)


def _states(judgement: Judgement) -> dict[str, str]:
    return {result.gate.id: result.state for result in judgement.results}


def test_better_candidate_passes_quality() -> None:
    states = _states(_judged(4.2))
    assert {states[g] for g in states if "golden" in g} == {"pass"}


def test_equal_candidate_is_held_by_superiority_alone() -> None:
    states = _states(_judged(3.5))
    assert states["better-on-golden"] == "not_certified"
    assert states["not-worse-on-golden"] == states["golden-average-precision"] == "pass"


def test_worse_candidate_fails_beside_the_champion() -> None:
    states = _states(_judged(2.4))
    assert states["not-worse-on-golden"] == states["better-on-golden"] == "fail"


def test_one_broken_language_is_blocked_by_its_gate() -> None:
    found = scored_set(separation=4.2, num_rows=6_000)
    broken_N = found.slices["language"] == "pl"
    log_odds_NP = found.candidate.log_odds_NP - 3.5 * (found.truth_NP * broken_N[:, None])
    contract = contract_of("not-worse-in-any-language")
    judged = judge(evidence_of(with_candidate(found, log_odds_NP)), contract, seed=SEED)
    result = next(r for r in judged.results if r.gate.id == "not-worse-in-any-language")
    assert result.state == "fail"
    assert result.blocks
    assert "language=pl" in result.reason
    assert "language=en" not in result.reason


def test_first_release_is_judged_by_absolute_gates_alone() -> None:
    found = scored_set(separation=4.2, champion_separation=None)
    contract = contract_of("golden-average-precision", "not-worse-on-golden", "better-on-golden")
    judged = judge(evidence_of(found), contract, seed=SEED)
    assert "not-worse-on-golden" not in _states(judged)
    assert any("no champion to compare with" in note for note in judged.notes)
    assert _states(judged)["golden-average-precision"] == "pass"


def test_first_release_is_let_off_replay_when_nothing_was_decided() -> None:
    found = scored_set(separation=4.2, champion_separation=None)
    contract = contract_of("golden-average-precision", "replay-shift-up", "replay-by-segment")
    lost = judge(evidence_of(found), contract, seed=SEED)
    assert _states(lost)["replay-shift-up"] == "no_data"
    assert not lost.is_passing, "decisions that cannot be read are not decisions that never were"
    first = judge(evidence_of(found, nothing_decided=True), contract, seed=SEED)
    assert set(_states(first)) == {"golden-average-precision"}
    assert first.is_passing
    assert any("replay-shift-up, replay-by-segment" in note for note in first.notes)


def test_replay_blocks_beside_a_champion_that_never_answered() -> None:
    contract = contract_of("replay-shift-up")
    judged = judge(evidence_of(scored_set(), nothing_decided=True), contract, seed=SEED)
    assert _states(judged)["replay-shift-up"] == "no_data"
    assert not judged.is_passing


@pytest.mark.parametrize("champion_separation", [2.0, None])
def test_replay_is_let_off_when_the_candidate_decided_all_of_it(
    champion_separation: float | None,
) -> None:
    found = scored_set(separation=4.2, champion_separation=champion_separation)
    contract = contract_of("golden-average-precision", "replay-shift-up", "replay-by-segment")
    own = judge(evidence_of(found, only_own_decisions=True), contract, seed=SEED)
    assert not {"replay-shift-up", "replay-by-segment"} & set(_states(own))
    assert own.is_passing
    told = [note for note in own.notes if note.startswith("the candidate itself decided all")]
    assert len(told) == 1
    assert told[0].endswith("not judged: replay-shift-up, replay-by-segment")
    without = judge(evidence_of(found), contract_of("golden-average-precision"), seed=SEED)
    assert not any("candidate itself" in note for note in without.notes)


def test_replay_that_was_taken_is_judged_whoever_is_said_to_have_decided() -> None:
    found = scored_set("replay", separation=4.2)
    contract = contract_of("replay-shift-up")
    judged = judge(evidence_of(found, only_own_decisions=True), contract, seed=SEED)
    assert "replay-shift-up" in _states(judged)


def test_missing_set_blocks_and_is_told() -> None:
    lacking = evidence_of(missing={"golden": "build one: tidegate golden build"})
    judged = judge(lacking, contract_of("golden-average-precision"), seed=SEED)
    assert _states(judged)["golden-average-precision"] == "no_data"
    assert not judged.is_passing
    assert any("tidegate golden build" in note for note in judged.notes)


def test_demo_profile_lets_off_and_says_so() -> None:
    found = scored_set(separation=4.2, num_rows=200)
    contract = contract_of("golden-average-precision", "not-worse-in-any-language")
    strict = judge(evidence_of(found), contract, seed=SEED)
    demo = judge(evidence_of(found), contract, profile="demo", seed=SEED)
    blocking = [{r.gate.id for r in one.results if r.blocks} for one in (strict, demo)]
    assert {"golden-average-precision", "not-worse-in-any-language"} <= blocking[0]
    assert blocking[1] <= {contract.promotion.objective}
    assert any("demonstration" in note for note in demo.notes)


def test_demo_profile_blocks_what_is_wrong_or_answers_nothing() -> None:
    contract = contract_of("golden-average-precision")
    worse = evidence_of(scored_set(separation=0.5))
    silent = evidence_of(missing={"golden": "the bundle refuses to answer"})
    for evidence, state in ((worse, "fail"), (silent, "no_data")):
        judged = judge(evidence, contract, profile="demo", seed=SEED)
        assert _states(judged)["golden-average-precision"] == state
        assert not judged.is_passing


def test_tie_is_blocked_under_every_profile() -> None:
    contract = contract_of("golden-average-precision")
    tie = evidence_of(scored_set(separation=3.5, num_rows=300))
    for profile in contract.profiles:
        judged = judge(tie, contract, profile=profile, seed=SEED)
        assert _states(judged)["better-on-golden"] == "not_certified"
        assert not judged.is_passing


def test_profile_is_refused_when_unknown() -> None:
    with pytest.raises(PolicyError, match="no profile nope"):
        judge(evidence_of(scored_set()), contract_of(), profile="nope", seed=SEED)


def test_measure_is_refused_when_unknown() -> None:
    contract = contract_of("no-leak", measure="astrology")
    with pytest.raises(PolicyError, match="astrology"):
        judge(evidence_of(scored_set()), contract, seed=SEED)


def test_verdicts_block_exactly_when_the_judgement_does() -> None:
    for separation in (4.2, 2.4):
        judged = _judged(separation)
        assert [v.blocks for v in judged.verdicts] == [r.blocks for r in judged.results]
        assert len(judged.verdicts) == len(judged.results)


def test_missing_number_is_no_data_when_a_bundle_gives_nan() -> None:
    found = scored_set()
    log_odds_NP = np.full_like(found.candidate.log_odds_NP, np.nan)
    contract = contract_of("golden-average-precision", "not-worse-on-golden", "better-on-golden")
    judged = judge(evidence_of(with_candidate(found, log_odds_NP)), contract, seed=SEED)
    assert {s for g, s in _states(judged).items() if "golden" in g} == {"no_data"}


def _fails(seeds: range) -> Iterator[bool]:
    for seed in seeds:
        found = scored_set(num_rows=1_500, separation=3.5, seed=seed)
        contract = contract_of("not-worse-on-golden", "not-worse-in-any-language")
        contract = contract.model_copy(
            update={"risk": contract.risk.model_copy(update={"resamples": 400})}
        )
        judged = judge(evidence_of(found), contract, seed=seed)
        yield any(r.state == "fail" for r in judged.results)


def test_equal_candidate_is_rarely_shown_worse() -> None:
    assert sum(_fails(range(40))) <= 5  # 5 % of 40 is 2; 6 or more has a chance below 2 %


def test_candidate_digest_is_recorded() -> None:
    assert evidence_of(scored_set()).candidate == CANDIDATE


def test_bounds_of_a_proportion_are_exact() -> None:
    assert Proportion(299, 299).low(0.95) == pytest.approx(0.99003, abs=1e-5)
    assert Proportion(0, 59).high(0.95) == pytest.approx(1 - 0.9505, abs=1e-3)
    assert Proportion(0, 10).low(0.95) == 0
    assert Proportion(10, 10).high(0.95) == 1


def test_bounds_are_open_when_resamples_are_undefined() -> None:
    spread = Resampled(0.5, np.full(500, np.nan))
    assert spread.low(0.95) == -np.inf
    assert spread.high(0.95) == np.inf


def test_bounds_widen_with_confidence() -> None:
    values_B = np.random.default_rng(1).normal(0.5, 0.1, 2_000)
    spread = Resampled(0.5, values_B)
    lows = [spread.low(level) for level in (0.8, 0.95, 0.99, 0.999, 0.99999)]
    assert lows == sorted(lows, reverse=True)
    assert spread.high(0.999) > spread.high(0.99)


def test_needed_rows_are_none_when_the_figure_is_on_the_wrong_side() -> None:
    assert rows_needed(100, 0.1, -0.1, 0.95) is None
    assert rows_needed(100, 0.1, 0.1, 0.95) == 619
