"""When automatic enforcement stops: each limit with what just passes and what does not."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from moderation.enforcement import (
    BUCKET_S,
    EnforcementChange,
    Excess,
    HourlyTally,
    PredictionWindow,
    over_quota,
)
from moderation.serving_rules import Audit, EnforcementQuotas, Heartbeat, PredictionBreaker

RULES = PredictionBreaker(
    window_s=60.0,
    most_s=3600.0,
    least_listings=100,
    newest_listings=20,
    most_listings=200,
    share=0.5,
    share_of_policy=0.3,
    times_expected=10.0,
    least_flags=20,
)
RELEASE = "a" * 64
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
QUOTAS = EnforcementQuotas(per_hour=10, per_policy_per_hour=6)


def window(num: int, flagged: Mapping[str, int], now_s: float = 0.0) -> PredictionWindow:
    """Return a window of `num` listings; so many of each policy are flagged, none under two."""
    found = PredictionWindow(RELEASE, RULES)
    marks = [frozenset({policy}) for policy, count in flagged.items() for _ in range(count)]
    for mark in marks + [frozenset[str]()] * (num - len(marks)):
        found.add(mark, now_s)
    return found


@pytest.mark.parametrize(
    ("num", "flagged", "policy"),
    [
        (100, {"spam": 25, "weapons": 25}, None),
        (100, {"spam": 30}, "spam"),
        (200, {"toys": 20}, "toys"),
    ],
)
def test_window_is_too_much_at_its_limit(
    num: int, flagged: Mapping[str, int], policy: str | None
) -> None:
    found = window(num, flagged).excess({"toys": 0.01})
    assert found is not None
    assert (found.cause, found.release, found.policy) == ("predictions", RELEASE, policy)
    assert RELEASE[:12] in found.reason


@pytest.mark.parametrize(
    ("num", "flagged"),
    [
        (99, {"spam": 99}),
        (100, {"spam": 24, "weapons": 25}),
        (100, {"spam": 29}),
        (200, {"toys": 19}),
        (200, {"strange": 20}),
        (100, {}),
    ],
)
def test_window_is_quiet_below_its_limits(num: int, flagged: Mapping[str, int]) -> None:
    assert window(num, flagged).excess({"toys": 0.009}) is None


def fires_at(found: PredictionWindow, marks: Iterable[str], begin_s: float, every_s: float) -> int:
    """Return after how many listings, each flagged under a policy or "", it is too much; 0: never."""
    for num, policy in enumerate(marks, 1):
        found.add(frozenset({policy} - {""}), begin_s + num * every_s)
        if policy and found.excess({"toys": 0.01}) is not None:
            return num
    return 0


@pytest.mark.parametrize("every_s", [0.1, 0.7, 10.0, 30.0])
def test_slow_release_is_stopped_at_the_least_number_of_listings(every_s: float) -> None:
    found = PredictionWindow(RELEASE, RULES)
    assert fires_at(found, ["spam"] * 200, 0.0, every_s) == RULES.least_listings


@pytest.mark.parametrize(("policy", "one_in"), [("spam", 3), ("toys", 5)])
def test_slow_release_is_stopped_under_one_policy(policy: str, one_in: int) -> None:
    found = PredictionWindow(RELEASE, RULES)
    marks = ["" if n % one_in else policy for n in range(200)]
    assert 100 <= fires_at(found, marks, 0.0, 10.0) <= 110


def test_slow_release_that_goes_wrong_is_stopped_within_the_least_number() -> None:
    found = window(2_000, {})
    assert 0 < fires_at(found, ["spam"] * 100, 70.0, 10.0) <= 50


@pytest.mark.parametrize("age_s", [400.0, 3_000.0, 3_601.0, 1e6])
def test_old_flags_do_not_stop_a_release_that_is_well_now(age_s: float) -> None:
    found = window(90, {"spam": 90})
    marks = ["" if n % 25 else "spam" for n in range(1, 1_001)]
    assert fires_at(found, marks, age_s, 10.0) == 0


def test_flags_beyond_the_most_seconds_count_for_nothing() -> None:
    found = window(99, {"spam": 99})
    assert fires_at(found, ["spam"] * 99, 3_600.1, 1.0) == 0


def test_release_that_fell_silent_is_quiet_and_says_nothing() -> None:
    found = window(100, {"spam": 100})
    assert found.excess({}) is not None
    found.forget(60.1)
    assert not found.is_telling
    assert found.excess({}) is None


def test_window_forgets_what_is_far_back() -> None:
    found = window(100, {"spam": 100})
    for _ in range(200):
        found.add(frozenset(), 1.0)
    assert found.is_telling
    assert found.excess({}) is None


def _tally(counts: Mapping[str, int], at: datetime = NOON) -> HourlyTally:
    tally = HourlyTally()
    for policy, count in counts.items():
        for _ in range(count):
            tally.add(frozenset({policy}), at)
    return tally


@pytest.mark.parametrize(
    ("counts", "policy"), [({"spam": 5, "toys": 5}, None), ({"spam": 6}, "spam")]
)
def test_quota_is_used_up_by_all_gateways_together(
    counts: Mapping[str, int], policy: str | None
) -> None:
    tallies = [_tally({name: count}).buckets(NOON) for name, count in counts.items()]
    found = over_quota(QUOTAS, tallies, NOON, None)
    assert found is not None
    assert (found.cause, found.policy) == ("quota", policy)


def test_quota_is_left_when_less_was_enforced_within_the_hour() -> None:
    assert over_quota(QUOTAS, [_tally({"spam": 5, "toys": 4}).buckets(NOON)], NOON, None) is None
    tally = _tally({"spam": 6})
    later = NOON + timedelta(hours=1, seconds=BUCKET_S)
    assert over_quota(QUOTAS, [tally.buckets(NOON)], later, None) is None
    assert tally.buckets(later) == {}


def test_listing_under_two_policies_counts_once_for_the_whole() -> None:
    tally = HourlyTally()
    for _ in range(5):
        tally.add(frozenset({"spam", "toys"}), NOON)
    assert over_quota(QUOTAS, [tally.buckets(NOON)], NOON, None) is None


def test_quota_counts_anew_after_a_person_let_it_go_on() -> None:
    tally = _tally({"spam": 6})
    assert over_quota(QUOTAS, [tally.buckets(NOON)], NOON, NOON) is None
    for _ in range(6):
        tally.add(frozenset({"spam"}), NOON + timedelta(seconds=BUCKET_S))
    later = NOON + timedelta(seconds=BUCKET_S)
    assert isinstance(over_quota(QUOTAS, [tally.buckets(later)], later, NOON), Excess)


def test_change_needs_a_reason() -> None:
    with pytest.raises(ValidationError, match="reason"):
        EnforcementChange(
            number=1, state="automatic", cause="admin", reason="ok", by="ana", at=NOON
        )


def test_rules_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ValidationError, match="most_listings: must be at least"):
        PredictionBreaker.model_validate(RULES.model_dump() | {"most_listings": 99})
    with pytest.raises(ValidationError, match="newest_listings: must be at most"):
        PredictionBreaker.model_validate(RULES.model_dump() | {"newest_listings": 101})
    with pytest.raises(ValidationError, match="most_s: must be at least"):
        PredictionBreaker.model_validate(RULES.model_dump() | {"most_s": 59.0})
    with pytest.raises(ValidationError, match="twice every_s"):
        Heartbeat(every_s=3.0, stale_s=5.0)
    with pytest.raises(ValidationError, match="less than or equal"):
        Audit(allow=1.1, tag=0.0, review=0.0, block=0.0, suspend=1.0)
