"""When automatic blocking and suspending stops: shares and counts that are too high, and the record of each change."""

import math
from collections import Counter, deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from moderation.serving_rules import EnforcementQuotas, PredictionBreaker

Cause = Literal["predictions", "quota", "admin", "quiet"]

HOUR: Final = timedelta(hours=1)
BUCKET_S: Final = 10
"""Seconds that are counted together: by so much, at most, an hour is taken longer."""

_ANY: Final = ""

Buckets = dict[int, dict[str, int]]
"""Start of ten seconds, in seconds since 1970 -> policy -> listings enforced on; "" counts a listing once."""


class EnforcementChange(BaseModel):
    """Automatic enforcement was stopped, or goes on again: one link of a chain that is numbered from 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: Annotated[int, Field(ge=1)]
    state: Literal["stopped", "automatic"]
    cause: Cause
    reason: Annotated[str, Field(min_length=8, max_length=500)]
    by: Annotated[str, Field(min_length=1, max_length=128)]
    """Gateway or person."""

    at: AwareDatetime
    release: str | None = None
    policy: str | None = None


@dataclass(frozen=True)
class Excess:
    """What is too much, and of whom."""

    cause: Cause
    reason: str
    release: str | None = None
    policy: str | None = None


class PredictionWindow:
    """The newest listings that one release judged, and how many of them it put at block or stronger.

    A release with little traffic is judged by its newest `least_listings`, though they are older than `window_s`. Then
    its `newest_listings` have to show it too, so that what is long mended stops nothing.
    """

    def __init__(self, release: str, rules: PredictionBreaker) -> None:
        self._release, self._rules = release, rules
        self._seen: deque[tuple[float, frozenset[str]]] = deque()
        self._flags: Counter[str] = Counter()
        self._now_s = -math.inf

    @property
    def is_telling(self) -> bool:
        """Whether there are listings enough within `window_s`, to say that all is well."""
        least = self._rules.least_listings
        return len(self._seen) >= least and not self._is_old(self._seen[-least])

    def add(self, flagged: frozenset[str], now_s: float) -> None:
        """Take note of one listing.

        Args:
            flagged: policies under which it is at block or stronger.
            now_s: monotonic seconds.
        """
        self._seen.append((now_s, flagged))
        self._flags.update(_marks(flagged))
        self.forget(now_s)
        if len(self._seen) > self._rules.most_listings:
            self._drop()

    def forget(self, now_s: float) -> None:
        """Let go of what is older than `window_s` and not needed for `least_listings`, or older than `most_s`."""
        self._now_s = now_s
        while len(self._seen) > self._rules.least_listings and self._is_old(self._seen[0]):
            self._drop()
        while self._seen and now_s - self._seen[0][0] > self._rules.most_s:
            self._drop()

    def excess(self, expected: Mapping[str, float]) -> Excess | None:
        """Return what is too much, or None; a release that judged nothing within `window_s` is quiet.

        Args:
            expected: policy -> share of listings at block or stronger that calibration expected.
        """
        num, rules = len(self._seen), self._rules
        if num < rules.least_listings or self._is_old(self._seen[-1]):
            return None
        found = self._judged(self._flags, num, rules.least_flags, expected)
        if found is None or not self._is_old(self._seen[0]):
            return found
        newest = min(rules.newest_listings, num)
        flagged_now = (flagged for _, flagged in islice(reversed(self._seen), newest))
        flags = Counter(mark for flagged in flagged_now for mark in _marks(flagged))
        is_now = self._judged(flags, newest, rules.least_flags * newest // num, expected)
        return found if is_now else None

    def _judged(
        self, flags: Mapping[str, int], num: int, least_flags: int, expected: Mapping[str, float]
    ) -> Excess | None:
        rules = self._rules
        share = flags.get(_ANY, 0) / num
        if share >= rules.share:
            return self._excess(None, share, f"the limit is {rules.share:.0%}")
        for policy in sorted(flags.keys() - {_ANY}):
            share, usual = flags[policy] / num, expected.get(policy)
            if share >= rules.share_of_policy:
                return self._excess(policy, share, f"the limit is {rules.share_of_policy:.0%}")
            if usual is None or flags[policy] < least_flags:
                continue
            if share >= rules.times_expected * usual:
                return self._excess(policy, share, f"{usual:.2%} were expected of this bundle")
        return None

    def _is_old(self, seen: tuple[float, frozenset[str]]) -> bool:
        return self._now_s - seen[0] > self._rules.window_s

    def _excess(self, policy: str | None, share: float, beside: str) -> Excess:
        under = f" under {policy}" if policy else ""
        reason = (
            f"release {self._release[:12]} puts {share:.1%} of its newest {len(self._seen)} listings at block or "
            f"stronger{under}; {beside}"
        )
        return Excess("predictions", reason, self._release, policy)

    def _drop(self) -> None:
        _, flagged = self._seen.popleft()
        self._flags.subtract(_marks(flagged))


class HourlyTally:
    """Listings of the last hour that were blocked or suspended without a person, by one gateway."""

    def __init__(self) -> None:
        self._buckets: dict[int, Counter[str]] = {}

    def add(self, flagged: frozenset[str], at: datetime) -> None:
        """Count one listing under each policy that it was blocked or suspended for."""
        self._buckets.setdefault(_bucket(at), Counter()).update(_marks(flagged))

    def buckets(self, now: datetime) -> Buckets:
        """Return the counts of the last hour."""
        first = _bucket(now - HOUR)
        self._buckets = {start: n for start, n in self._buckets.items() if start >= first}
        return {start: dict(counts) for start, counts in self._buckets.items()}


def over_quota(
    quotas: EnforcementQuotas, tallies: Iterable[Buckets], now: datetime, since: datetime | None
) -> Excess | None:
    """Return which quota is used up, or None.

    Args:
        quotas: the limits.
        tallies: of all gateways, dead ones too.
        now: the hour ends here.
        since: what was counted by then counts no more, as a person let enforcement go on.
    """
    first = _bucket(now - HOUR) if since is None else max(_bucket(now - HOUR), _bucket(since) + 1)
    counts: Counter[str] = Counter()
    for tally in tallies:
        for start, found in tally.items():
            if start >= first:
                counts.update(found)
    if counts[_ANY] >= quotas.per_hour:
        return _used_up(None, counts[_ANY], quotas.per_hour)
    for policy in sorted(counts.keys() - {_ANY}):
        if counts[policy] >= quotas.per_policy_per_hour:
            return _used_up(policy, counts[policy], quotas.per_policy_per_hour)
    return None


def _used_up(policy: str | None, num: int, limit: int) -> Excess:
    under = f" under {policy}" if policy else ""
    reason = f"{num} listings were blocked or suspended{under} within an hour; the quota is {limit}"
    return Excess("quota", reason, policy=policy)


def _marks(flagged: Collection[str]) -> tuple[str, ...]:
    return (_ANY, *flagged) if flagged else ()


def _bucket(at: datetime) -> int:
    return int(at.timestamp()) // BUCKET_S * BUCKET_S
