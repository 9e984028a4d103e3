"""Flags of listings that had been let through: what audits hardly see certifies nothing, what replay shows does."""

from dataclasses import replace

import numpy as np
import pytest

from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import GateResult, judge
from moderation.gates.unheld import held_before
from tests.gate_rates import flagged_traffic, held_replay
from tests.gate_world import CHAMPION, contract_of, evidence_of, with_rows

_LIMITS = {"tier-block": 0.95, "tier-suspend": 0.99}


def _result(
    gate: str, found: ScoredSet, replay: ScoredSet | None = None, *, own: bool = False
) -> GateResult:
    sets = (found,) if replay is None else (found, replay)
    evidence = replace(evidence_of(*sets), champion=CHAMPION, only_own_decisions=own)
    contract = contract_of(gate)
    risk = contract.risk.model_copy(update={"resamples": 50})
    judged = judge(evidence, contract.model_copy(update={"risk": risk}), seed=1)
    return next(result for result in judged.results if result.gate.id == gate)


def _replay(num_flags: int, new: int = 0) -> ScoredSet:
    return held_replay(("weapons",), num_flags, new)


def _newly_flagging(seed: int, flags: int, *, new: int, thinned: float) -> ScoredSet:
    """Return traffic whose flags that had been held are all right, and whose new ones are all wrong if audited.

    Args:
        seed: draws.
        flags: in deployed traffic, of which `new` are such as had been let through.
        new: innocent.
        thinned: of listings that were let through one in so many was audited.
    """
    rng = np.random.default_rng(seed)
    held, seen, audited = flags - new, int(rng.binomial(new, 1 / thinned)), 600
    base = flagged_traffic(held + seen, 1.0, thinned=round(thinned))
    truth_NP, weight = base.truth_NP.copy(), base.weight.copy()
    truth_NP[held : held + seen] = 0
    weight[held : held + seen] = thinned
    rows = np.arange(held + seen + 400 + audited)
    return with_rows(replace(base, truth_NP=truth_NP, weight=weight), rows)


@pytest.mark.parametrize("new", [100, 400])
def test_innocents_that_are_newly_blocked_and_hardly_audited_are_not_certified(new: int) -> None:
    for seed in range(10):
        found = _newly_flagging(seed, 400 + new, new=new, thinned=500)
        replay = _replay(2_000, round(2_000 * new / (400 + new)))
        for known in (None, replay):
            assert _result("tier-block", found, known).state != "pass"


def test_replay_that_shows_nothing_newly_flagged_certifies() -> None:
    found = _newly_flagging(0, 400, new=0, thinned=500)
    without = _result("tier-block", found)
    assert without.state == "not_certified"
    assert (
        "audits see one in 500 of what had been let through, and no replay shows how many of the "
        "flags are of that" in without.reason
    )
    assert _result("tier-block", found, _replay(2_000)).state == "pass"


def test_replay_says_how_many_flags_it_would_take() -> None:
    found = _newly_flagging(0, 400, new=0, thinned=500)
    few = _result("tier-block", found, _replay(40))
    needed = few.checks[0].estimate.needed
    assert few.state == "not_certified"
    assert needed is not None
    assert f"it would take {needed} replayed flags, no further one new" in few.reason
    assert _result("tier-block", found, _replay(needed - 1)).state == "not_certified"
    assert _result("tier-block", found, _replay(needed)).state == "pass"


def test_few_new_flags_of_few_take_more_replay() -> None:
    found = _newly_flagging(0, 400, new=0, thinned=500)
    result = _result("tier-block", found, _replay(60, 1))
    needed = result.checks[0].estimate.needed
    assert "1 of 60 replayed flags are of that" in result.reason
    assert needed is not None
    assert _result("tier-block", found, _replay(needed - 5, 1)).state == "not_certified"
    assert _result("tier-block", found, _replay(needed + 5, 1)).state == "pass"


@pytest.mark.parametrize("gate", ["tier-block", "tier-suspend"])
def test_few_new_flags_are_borne_as_wrong(gate: str) -> None:
    limit = _LIMITS[gate]
    found = _newly_flagging(0, 4_000, new=0, thinned=500)
    most = round(100_000 * (1 - limit))
    assert _result(gate, found, _replay(100_000, most // 2)).state == "pass"
    assert _result(gate, found, _replay(100_000, most)).state == "not_certified"


def test_audits_alone_certify_many_flags() -> None:
    assert _result("tier-block", _newly_flagging(0, 900, new=0, thinned=20)).state != "pass"
    assert _result("tier-block", _newly_flagging(0, 1_300, new=0, thinned=20)).state == "pass"


def test_where_everything_was_looked_at_no_replay_is_needed() -> None:
    found = flagged_traffic(299, 1.0, thinned=1)
    assert _result("tier-suspend", found).state == "pass"


def test_what_a_person_decides_is_not_held_to_it() -> None:
    found = _newly_flagging(0, 400, new=0, thinned=500)
    assert _result("tier-review", found).state == "pass"


def test_judged_again_by_its_own_decisions_a_candidate_certifies_no_more() -> None:
    """The rows are older than its decisions: what it holds now had been let through then."""
    found = _newly_flagging(0, 800, new=400, thinned=500)
    assert _result("tier-block", found, own=True).state != "pass"


def test_what_is_seen_to_be_wrong_is_shown_wrong_with_a_replay_and_without() -> None:
    found = flagged_traffic(600, 0.85)
    for replay in (None, _replay(50, 10), _replay(2_000)):
        assert _result("tier-block", found, replay).state == "fail"


def test_few_reviewed_innocents_do_not_close_what_replay_opens() -> None:
    found = _newly_flagging(0, 400, new=0, thinned=500)
    reviewed = np.flatnonzero((found.weight == 1) & (found.truth_NP[:, 0] == 0))
    few = with_rows(found, np.setdiff1d(np.arange(found.num_rows), reviewed[20:]))
    assert _result("tier-block", few, _replay(2_000)).state == "pass"


@pytest.mark.parametrize("share", [0.03, 0.5, 0.7])
def test_reviewed_innocents_do_not_make_audits_look_frequent(share: float) -> None:
    found = _newly_flagging(0, 900, new=0, thinned=20)
    [one] = np.flatnonzero((found.weight == 1) & (found.truth_NP[:, 0] == 0))[:1]
    more = round(share / (1 - share) * 600 * 20)
    many = with_rows(found, np.append(np.arange(found.num_rows), np.full(more, one)))
    assert _result("tier-block", many).state != "pass"


def test_without_audits_what_is_newly_flagged_was_never_seen() -> None:
    found = flagged_traffic(2_000, 1.0, thinned=1)
    contract = contract_of("tier-block")
    unaudited = contract.serving.model_copy(update={"audit": None})
    contract = contract.model_copy(update={"serving": unaudited})
    for new, state in ((1_000, "not_certified"), (0, "pass")):
        evidence = replace(evidence_of(found, _replay(2_000, new)), champion=CHAMPION)
        [result] = [
            r for r in judge(evidence, contract, seed=1).results if r.gate.id == "tier-block"
        ]
        assert result.state == state
    assert (
        "audits see none of what had been let through"
        in judge(
            replace(evidence_of(found, _replay(2_000, 1_000)), champion=CHAMPION), contract, seed=1
        )
        .results[-1]
        .reason
    )


def test_blocked_ones_that_audits_saw_weigh_as_seldom_as_they_were_seen() -> None:
    """Of what had been blocked one in twenty was audited: five of a hundred, and a fifth of those may be wrong."""
    found = _newly_flagging(0, 305, new=0, thinned=500)
    weight = found.weight.copy()
    weight[:5] = 20.0
    assert _result("tier-block", replace(found, weight=weight), _replay(5_000)).state != "pass"


def test_replay_without_a_flag_shows_nothing() -> None:
    replay = _replay(50)
    quiet = replace(replay.candidate, probability_NP=replay.candidate.probability_NP * 0)
    for one in (None, replace(replay, candidate=quiet)):
        assert held_before(one, "weapons", 0.97, by_seller=False, confidence=0.95) is None


def test_replay_of_scores_that_are_no_numbers_shows_nothing() -> None:
    replay = _replay(50)
    probability_NP = replay.candidate.probability_NP.copy()
    probability_NP[0] = np.nan
    broken = replace(replay, candidate=replace(replay.candidate, probability_NP=probability_NP))
    assert held_before(broken, "weapons", 0.97, by_seller=False, confidence=0.95) is None
    assert held_before(replay, "unheard of", 0.97, by_seller=False, confidence=0.95) is None


def test_held_under_another_policy_is_new() -> None:
    whole = held_replay(("weapons", "counterfeit", "spam"), 100, 100)
    recorded = whole.champion
    assert recorded is not None
    probability_NP = recorded.probability_NP.copy()
    probability_NP[:60, 1] = 0.3
    mixed = replace(whole, champion=replace(recorded, probability_NP=probability_NP))
    for policy, new in (("weapons", 100), ("counterfeit", 40)):
        held = held_before(mixed, policy, 0.97, by_seller=False, confidence=0.95)
        assert held is not None
        assert (held.flags, held.new) == (100, new)


def test_policy_that_was_not_judged_had_let_everything_through() -> None:
    replay = _replay(100)
    assert replay.champion is not None
    headless = replace(replay, champion=replace(replay.champion, thresholds={}))
    held = held_before(headless, "weapons", 0.97, by_seller=False, confidence=0.95)
    assert held is not None
    assert held.new == 100


def test_drawn_replay_counts_a_new_seller_for_as_many_as_it_stands_for() -> None:
    """Bulk sellers are in any draw, and an innocent of one listing is in one of five."""
    whole = _replay(400)
    drawn = replace(whole, weight=np.full(400, 5.0))
    shares = [
        held.share.low(0.95)
        for replay in (whole, drawn)
        if (held := held_before(replay, "weapons", 0.97, by_seller=True, confidence=0.95))
    ]
    assert shares[0] > 0.992
    assert shares[1] < 0.965


def test_seller_is_held_as_far_as_its_listings_were() -> None:
    replay = _replay(100, 50)
    pairs = np.char.add("seller-", np.r_[0:50, 0:50].astype(str))  # one listing of each was held
    held = held_before(
        replace(replay, seller_id=pairs), "weapons", 0.97, by_seller=True, confidence=0.95
    )
    assert held is not None
    assert (held.flags, held.new) == (50, 50)
    assert held.share.successes / held.share.trials == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("gate", "flags", "new", "thinned"),
    [
        ("tier-block", 1_500, 0.0501, 500.0),
        ("tier-block", 6_000, 0.0501, 20.0),
        ("tier-suspend", 6_000, 0.0101, 500.0),
        ("tier-suspend", 30_000, 0.0101, 20.0),
    ],
)
def test_precision_below_the_limit_is_seldom_certified(
    gate: str, flags: int, new: float, thinned: float
) -> None:
    """All that is wrong is newly flagged, and just too much."""
    passed = []
    for seed in range(60):
        found = _newly_flagging(seed, flags, new=round(flags * new), thinned=thinned)
        replayed = np.random.default_rng(seed).binomial(3_000, new)
        passed.append(_result(gate, found, _replay(3_000, int(replayed))).state == "pass")
    assert np.mean(passed) <= 0.12  # of 60 at .05: more would be a chance of one in a hundred
