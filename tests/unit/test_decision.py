"""Decisions: the strongest tier wins, overrides end, failures answer by policy, and a record replays."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moderation.decision import (
    MODEL_UNAVAILABLE,
    Attempt,
    Decision,
    PolicyScore,
    Versions,
    capped,
    conclude,
    effective_thresholds,
    flagged,
    held,
    judge,
    replay,
    tier_of,
)
from moderation.policy import Override, PolicyFile, Tier, load_policies
from moderation.stage_1 import Stage1, StageSignal

NOW = datetime(2026, 3, 1, tzinfo=UTC)
POLICIES = load_policies(Path(__file__).parents[2] / "policies" / "marketplace.yaml")
OPEN = {"tag": 0.1, "review": 0.3, "block": 0.8}
ALL_OPEN = dict.fromkeys(POLICIES.ids, OPEN)


def score(policy: str, probability: float) -> PolicyScore:
    return PolicyScore(policy=policy, probability=probability, worst_image=None, signals=())


def scores(*probabilities: float) -> tuple[PolicyScore, ...]:
    return tuple(map(score, POLICIES.ids, probabilities))


def attempt(
    role: Literal["answer", "shadow"] = "answer",
    status: Literal["ok", "error", "timeout"] = "ok",
    *probabilities: float,
) -> Attempt:
    return Attempt(
        role=role,
        release="a" * 64,
        status=status,
        latency_ms=3.0,
        scores=scores(*probabilities),
        thresholds=ALL_OPEN,
        tier="allow",
    )


def decision(*attempts: Attempt, **changes: Any) -> Decision:
    fields: dict[str, Any] = {
        "decision_id": "d1",
        "trace_id": "t1",
        "submission_id": "s1",
        "tier": "allow",
        "reason_codes": (),
        "attempts": attempts,
        "arm": "champion",
        "weight": 1.0,
        "sticky_key": "k",
        "routing_revision": 1,
        "input_digests": {},
        "features": (),
        "versions": Versions(bundle="a" * 64, policy="1"),
        "submitted_at": NOW,
        "decided_at": NOW,
    }
    return Decision.model_validate(fields | changes)


@pytest.mark.parametrize(
    ("probability", "tier"),
    [
        (0.0, "allow"),
        (0.0999, "allow"),
        (0.1, "tag"),
        (0.3, "review"),
        (0.79, "review"),
        (0.8, "block"),
        (1.0, "block"),
    ],
)
def test_tier_is_the_strongest_that_is_reached(probability: float, tier: str) -> None:
    assert tier_of(probability, OPEN).label == tier


def test_tier_is_allow_when_every_tier_is_closed() -> None:
    assert tier_of(1.0, {}) is Tier.ALLOW


def test_tier_refuses_nan() -> None:
    with pytest.raises(ValueError, match="a missing score has a status"):
        tier_of(math.nan, OPEN)


def test_tier_refuses_an_unknown_name() -> None:
    with pytest.raises(KeyError):
        tier_of(0.9, {"ban": 0.5})


@settings(max_examples=200, deadline=None, derandomize=True)
@given(low=st.floats(0, 1), high=st.floats(0, 1))
def test_tier_never_falls_when_probability_rises(low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert tier_of(low, OPEN) <= tier_of(high, OPEN)


def test_judge_takes_the_strongest_tier_over_policies() -> None:
    tier, codes = judge(scores(0.2, 0.9, 0.4), ALL_OPEN, POLICIES)
    assert tier is Tier.BLOCK
    assert codes == ("COUNTERFEIT_SUSPECTED", "SPAM_OR_SCAM", "WEAPONS_PROHIBITED")


def test_judge_keeps_file_order_when_tiers_tie() -> None:
    _, codes = judge(tuple(reversed(scores(0.5, 0.5, 0.5))), ALL_OPEN, POLICIES)
    assert codes == tuple(policy.reason_code for policy in POLICIES.policies)


def test_judge_gives_no_reason_when_all_is_allowed() -> None:
    assert judge(scores(0.0, 0.05, 0.0), ALL_OPEN, POLICIES) == (Tier.ALLOW, ())


def test_judge_ignores_policies_without_score_or_threshold() -> None:
    assert judge((), ALL_OPEN, POLICIES) == (Tier.ALLOW, ())
    assert judge(scores(1.0, 1.0, 1.0), {}, POLICIES) == (Tier.ALLOW, ())
    assert judge((score("unknown", 1.0),), {"unknown": OPEN}, POLICIES) == (Tier.ALLOW, ())


def with_override(until: datetime) -> PolicyFile:
    override = Override(
        policy="spam",
        tier="block",
        threshold=0.2,
        reason="a wave of scams",
        by="mk",
        until=until,
    )
    return POLICIES.model_copy(update={"overrides": (override,)})


def test_override_holds_until_its_end() -> None:
    policies = with_override(NOW + timedelta(days=1))
    merged = effective_thresholds(ALL_OPEN, policies, NOW)
    assert merged["spam"] == OPEN | {"block": 0.2}
    assert merged["weapons"] == OPEN
    assert ALL_OPEN["spam"] == OPEN


@pytest.mark.parametrize("late_s", [0, 1])
def test_override_is_gone_when_its_time_has_come(late_s: int) -> None:
    policies = with_override(NOW - timedelta(seconds=late_s))
    assert effective_thresholds(ALL_OPEN, policies, NOW)["spam"] == OPEN


def test_override_opens_a_closed_tier() -> None:
    merged = effective_thresholds({}, with_override(NOW + timedelta(days=1)), NOW)
    assert merged == {"weapons": {}, "counterfeit": {}, "spam": {"block": 0.2}}


@pytest.mark.parametrize(
    ("cap", "kept"),
    [
        ("suspend", {"tag": 0.1, "review": 0.4, "block": 0.8}),
        ("block", {"tag": 0.1, "review": 0.4}),
        ("review", {"tag": 0.1}),
        ("tag", {}),
    ],
)
def test_cap_closes_its_tier_and_stronger_ones(cap: str, kept: dict[str, float]) -> None:
    tiers = {"tag": 0.1, "review": 0.4, "block": 0.8, "suspend": 0.95}
    found = capped({"spam": tiers, "weapons": tiers}, {"spam": cap})
    assert found == {"spam": kept, "weapons": tiers}


def test_capped_tier_falls_to_review_when_it_was_weaker() -> None:
    solved = {"spam": {"review": 0.9, "block": 0.7}}
    assert capped(solved, {"spam": "block"}) == {"spam": {"review": 0.7}}


def test_override_opens_what_a_cap_closed() -> None:
    policies = with_override(NOW + timedelta(days=1))
    merged = effective_thresholds(ALL_OPEN, policies, NOW, caps={"spam": "block"})
    assert merged["spam"]["block"] == 0.2
    late = effective_thresholds(ALL_OPEN, policies, NOW + timedelta(days=2), caps={"spam": "block"})
    assert "block" not in late["spam"]


def test_replay_gives_the_recorded_answer_again() -> None:
    record = decision(attempt("shadow", "ok", 1.0, 1.0, 1.0), attempt("answer", "ok", 0.2, 0.9, 0))
    again = Decision.model_validate_json(record.model_dump_json())
    assert again == record
    assert replay(again, POLICIES) == ("block", ("COUNTERFEIT_SUSPECTED", "WEAPONS_PROHIBITED"))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(probabilities=st.tuples(*[st.floats(0, 1)] * 3))
def test_replay_is_exact_through_json(probabilities: tuple[float, ...]) -> None:
    record = decision(attempt("answer", "ok", *probabilities))
    again = Decision.model_validate_json(record.model_dump_json())
    tier, codes = judge(scores(*probabilities), ALL_OPEN, POLICIES)
    assert replay(again, POLICIES) == (tier.label, codes)


@pytest.mark.parametrize("status", ["error", "timeout"])
@pytest.mark.parametrize(
    ("on_failure", "tier"), [("allow_and_review", "allow"), ("review", "review")]
)
def test_replay_answers_by_policy_when_the_model_failed(
    status: Literal["error", "timeout"], on_failure: str, tier: str
) -> None:
    policies = POLICIES.model_copy(update={"on_failure": on_failure})
    failed = decision(attempt("answer", status, 1.0, 1.0, 1.0))
    assert replay(failed, policies) == (tier, (MODEL_UNAVAILABLE,))


def test_replay_applies_what_the_record_says_was_applied() -> None:
    failed = decision(attempt("answer", "error"), on_failure="review", tier="review")
    assert POLICIES.on_failure == "allow_and_review"
    assert replay(failed, POLICIES) == ("review", (MODEL_UNAVAILABLE,))


def test_stopped_enforcement_holds_what_would_be_blocked() -> None:
    scored = attempt("answer", "ok", 0.2, 0.9, 0).model_copy(update={"tier": "block"})
    codes = ("COUNTERFEIT_SUSPECTED", "WEAPONS_PROHIBITED")
    stopped = held(decision(scored, tier="block", reason_codes=codes), "too many blocks")
    assert (stopped.tier, stopped.attempts[0].tier) == ("review", "block")
    assert (stopped.enforcement, stopped.stopped_because) == ("stopped", "too many blocks")
    assert any("block goes to review; too many blocks" in said for said in stopped.degraded)
    again = Decision.model_validate_json(stopped.model_dump_json())
    assert replay(again, POLICIES) == (stopped.tier, stopped.reason_codes)


@pytest.mark.parametrize("tier", ["allow", "tag", "review"])
def test_stopped_enforcement_leaves_what_is_weaker(tier: str) -> None:
    stopped = held(decision(attempt(), tier=tier), "too many blocks")
    assert (stopped.tier, stopped.enforcement, stopped.degraded) == (tier, "stopped", ())


def test_flagged_policies_are_those_at_block_or_stronger() -> None:
    assert flagged(attempt("answer", "ok", 0.9, 0.79, 0.8)) == {POLICIES.ids[0], POLICIES.ids[2]}


def test_replay_answers_by_policy_when_nothing_answered() -> None:
    only_shadow = decision(attempt("shadow", "ok", 1.0, 1.0, 1.0))
    assert replay(only_shadow, POLICIES) == ("allow", (MODEL_UNAVAILABLE,))


def floor(policy: str, tier: str, **fields: Any) -> StageSignal:
    said = {"name": "patterns", "policy": policy, "status": "ok", "tier": tier}
    return StageSignal.model_validate(said | fields)


def stage_1(*signals: StageSignal) -> Stage1:
    return Stage1.of(signals, POLICIES, latency_ms=1.0)


@pytest.mark.parametrize(
    ("attempts", "signals", "by", "tier", "codes"),
    [
        ((attempt("answer", "ok", 0, 0, 0),), (), "model", "allow", ()),
        (
            (attempt("answer", "ok", 0, 0, 0),),
            (floor("spam", "review"),),
            "model",
            "review",
            ("SPAM_OR_SCAM",),
        ),
        (
            (attempt("answer", "ok", 0.2, 0.9, 0),),
            (floor("spam", "review"), floor("weapons", "review")),
            "model",
            "block",
            ("COUNTERFEIT_SUSPECTED", "WEAPONS_PROHIBITED", "SPAM_OR_SCAM"),
        ),
        (
            (),
            (floor("weapons", "block", is_decisive=True), floor("spam", "tag")),
            "stage_1",
            "block",
            ("WEAPONS_PROHIBITED", "SPAM_OR_SCAM"),
        ),
        (
            (),
            (StageSignal(name="behaviour", status="ok", is_decisive=True),),
            "stage_1",
            "allow",
            (),
        ),
        (  # as it was recorded before a stage that fails kept uploads from being let go
            (),
            (
                StageSignal(name="behaviour", status="ok", is_decisive=True),
                StageSignal(name="banks", status="error", reason="damaged"),
            ),
            "stage_1",
            "allow",
            (),
        ),
        (
            (attempt("answer", "error"),),
            (floor("spam", "review"),),
            "failure_policy",
            "review",
            (MODEL_UNAVAILABLE, "SPAM_OR_SCAM"),
        ),
        (
            (attempt("answer", "ok", 0, 0, 0),),
            (StageSignal(name="banks", status="error", reason="gone"),),
            "model",
            "allow",
            (),
        ),
    ],
)
def test_model_and_stage_1_conclude_and_replay_alike(
    attempts: tuple[Attempt, ...],
    signals: tuple[StageSignal, ...],
    by: str,
    tier: str,
    codes: tuple[str, ...],
) -> None:
    found = conclude(attempts, stage_1(*signals), POLICIES, POLICIES.on_failure)
    assert (found.decided_by, found.tier.label, found.reason_codes) == (by, tier, codes)
    record = decision(*attempts, decided_by=by, stage_1=stage_1(*signals))
    again = Decision.model_validate_json(record.model_dump_json())
    assert again == record
    assert replay(again, POLICIES) == (tier, codes)


@pytest.mark.parametrize(("status", "by"), [("ok", "model"), ("timeout", "failure_policy")])
def test_a_decision_of_before_stage_1_says_who_took_it(
    status: Literal["ok", "timeout"], by: str
) -> None:
    content = decision(attempt("answer", status, 0.2, 0.9, 0)).model_dump(mode="json")
    for name in ("decided_by", "stage_1", "duplicate_of"):
        del content[name]
    del content["versions"]["patterns"]
    old = Decision.model_validate(content)
    assert (old.decided_by, old.stage_1, old.duplicate_of) == (by, None, None)
    tier = "block" if by == "model" else "allow"
    assert replay(old, POLICIES)[0] == tier


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    probabilities=st.tuples(*[st.floats(0, 1)] * 3),
    asked=st.dictionaries(st.sampled_from(POLICIES.ids), st.sampled_from(["tag", "review"])),
)
def test_a_floor_never_weakens_what_the_model_says(
    probabilities: tuple[float, ...], asked: dict[str, str]
) -> None:
    answers = (attempt("answer", "ok", *probabilities),)
    alone = conclude(answers, None, POLICIES, POLICIES.on_failure)
    signals = stage_1(*(floor(policy, tier) for policy, tier in asked.items()))
    both = conclude(answers, signals, POLICIES, POLICIES.on_failure)
    assert both.tier is max([alone.tier, *(Tier[tier.upper()] for tier in asked.values())])
    assert {*alone.reason_codes, *signals.reason_codes} == {*both.reason_codes}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tier", "ban"),
        ("arm", "third"),
        ("audit_probability", 1.5),
        ("submitted_at", datetime(2026, 1, 1)),
        ("label", "x"),
    ],
)
def test_decision_refuses_a_wrong_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        decision(**{field: value})


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan, math.inf])
def test_score_refuses_what_is_no_probability(probability: float) -> None:
    with pytest.raises(ValidationError, match="probability"):
        score("weapons", probability)
