"""Whether listings are blocked and suspended without a person now: judged here, kept in the ledger, shared by gateways.

A stop is an event of the ledger, so that it outlives a restart and every gateway of the ledger follows it. Until the
ledger was read once, enforcement counts as stopped: what would be blocked then goes to review, and nothing is let
through by mistake.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge

from ledger.enforcement import newest_change, next_number, record_change
from ledger.ledger import Ledger
from moderation.clock import Clock
from moderation.decision import Attempt, Decision, asked_tier, enforced_under, flagged, held
from moderation.enforcement import (
    Buckets,
    EnforcementChange,
    Excess,
    HourlyTally,
    PredictionWindow,
    over_quota,
)
from moderation.errors import TemporaryError
from moderation.serving_rules import EnforcementQuotas, PredictionBreaker, ServingRules
from serving.errors import NothingToChange

_LOG = logging.getLogger(__name__)

STOPPED: Final = Gauge(
    "tidegate_enforcement_stopped",
    "Whether automatic blocking and suspending is stopped (1) or not (0).",
)
STOPS: Final = Counter(
    "tidegate_enforcement_stops_total", "How often this gateway stopped it.", ["cause"]
)
HELD: Final = Counter(
    "tidegate_enforcement_held_total",
    "Listings that went to review because automatic enforcement was stopped.",
    ["tier"],
)
UNSYNCED: Final = Counter(
    "tidegate_enforcement_sync_failed_total",
    "Looks at the ledger's state of enforcement that failed; the last known state holds.",
)

_UNKNOWN: Final = "whether it had been stopped could not be read from the ledger yet"
# Of releases that answer: champion, candidate, and those just replaced. The least recently used go first.
_MAX_WINDOWS: Final = 8


@dataclass(frozen=True)
class EnforcementState:
    """What a gateway knows of automatic enforcement."""

    is_stopped: bool
    reason: str | None
    change: EnforcementChange | None
    """The newest of the ledger; None where there never was one."""


@dataclass(frozen=True)
class Others:
    """What the other gateways of a home say of themselves."""

    tallies: tuple[Buckets, ...] = ()
    """What each enforced in the last hour, dead ones too."""

    is_loud: bool = False
    """Whether a living one sees too much now."""


def nobody_else() -> Others:
    """Return that there is no other gateway that is known."""
    return Others()


class Enforcement:
    """Watches what is enforced, and stops it; one for each gateway.

    `observe` is called on the event loop; `sync` and `change` wait for the ledger and belong on a thread.

    Args:
        rules: of the prediction breaker and the quotas; what is None is not looked at.
        ledger: holds the chain of changes.
        clock: event time for the record and the hour, monotonic time for windows.
        gateway: its id, for the record.
        others: what other gateways say; called by `sync` alone.
    """

    def __init__(
        self,
        rules: ServingRules,
        ledger: Ledger,
        clock: Clock,
        *,
        gateway: str,
        others: Callable[[], Others] = nobody_else,
    ) -> None:
        self._breaker: PredictionBreaker | None = rules.prediction_breaker
        self._quotas: EnforcementQuotas | None = rules.enforcement_quotas
        self._ledger, self._clock, self._gateway, self._others = ledger, clock, gateway, others
        self._windows: dict[str, PredictionWindow] = {}
        self._expected: dict[str, Mapping[str, float]] = {}
        self._tally = HourlyTally()
        self._said = Others()
        self._lock = threading.Lock()
        # Held for microseconds alone: the event loop waits for it.
        self._counting = threading.RLock()
        self._is_known = False
        self._newest: EnforcementChange | None = None
        self._excess: Excess | None = None
        self._loud_s = clock.monotonic()
        STOPPED.set(1)

    @property
    def state(self) -> EnforcementState:
        """What holds now."""
        newest, excess = self._newest, self._excess
        if excess is not None:
            return EnforcementState(True, excess.reason, newest)
        if not self._is_known:
            return EnforcementState(True, _UNKNOWN, None)
        if newest is not None and newest.state == "stopped":
            return EnforcementState(True, newest.reason, newest)
        return EnforcementState(False, None, newest)

    @property
    def is_loud(self) -> bool:
        """Whether this gateway sees too much, stopped already or not."""
        return self._too_much() is not None

    def buckets(self) -> Buckets:
        """Return what this gateway enforced in the last hour."""
        with self._counting:
            return self._tally.buckets(self._clock.now())

    def settle(self, decision: Decision) -> Decision:
        """Return the decision as it holds now: while enforcement is stopped, without blocking or suspending."""
        state = self.state
        if not state.is_stopped:
            return decision
        return held(decision, state.reason or "")

    def observe(self, decision: Decision, expected: Mapping[str, float] | None) -> bool:
        """Take note of a recorded decision; return whether it was one too many, so that `sync` has to record a stop.

        Everything that is enforced counts towards the quotas; what a release flags, only where it was asked.

        Args:
            decision: as it was recorded.
            expected: policy -> share of listings at block or stronger that calibration expected of the bundle; None
                where stage 1 or an earlier answer decided.
        """
        marks = enforced_under(decision)
        if decision.enforcement == "stopped" and marks:
            HELD.labels(asked_tier(decision)).inc()
        with self._counting:
            if self._breaker is not None and expected is not None:
                self._note(decision.attempts[0], expected)
            if decision.tier in ("block", "suspend"):
                self._tally.add(marks, self._clock.now())
        if not marks or self.state.is_stopped:
            return False
        excess = self._too_much()
        if excess is None:
            return False
        self._excess = excess
        STOPPED.set(1)
        STOPS.labels(excess.cause).inc()
        _LOG.error("automatic enforcement stopped", extra={"reason": excess.reason})
        return True

    def _note(self, attempt: Attempt, expected: Mapping[str, float]) -> None:
        if attempt.status == "ok" and attempt.release is not None:
            self._window(attempt.release).add(flagged(attempt), self._clock.monotonic())
            self._expected[attempt.release] = expected

    def sync(self) -> None:
        """Record a stop that is not recorded yet, and follow the ledger; one that fails now is asked again later."""
        self._said = self._others()
        try:
            with self._lock:
                self._follow()
                self._record_stop()
                self._close_when_quiet()
        except TemporaryError as error:
            UNSYNCED.inc()
            _LOG.error("the state of enforcement was not read", extra={"reason": str(error)})
        STOPPED.set(self.state.is_stopped)

    def change(self, *, stop: bool, reason: str, by: str) -> EnforcementChange:
        """Stop automatic enforcement, or let it go on, by a person's decision; recorded when this returns.

        Raises:
            NothingToChange: if it is so already.
            LedgerUnavailable: if that cannot be recorded now; nothing changed.
        """
        with self._lock:
            self._follow()
            self._record_stop()
            wanted = "stopped" if stop else "automatic"
            recorded = None
            while recorded is None:  # another one may be faster; then this is asked anew
                if (self._newest.state if self._newest else "automatic") == wanted:
                    raise NothingToChange(f"automatic enforcement is {wanted} already")
                recorded = self._append(stop=stop, excess=Excess("admin", reason), by=by)
                self._follow()
            STOPPED.set(self.state.is_stopped)
            return recorded

    def _window(self, release: str) -> PredictionWindow:
        window = self._windows.pop(release, None)
        if window is None:
            assert self._breaker is not None  # nothing is kept without it
            window = PredictionWindow(release, self._breaker)
        self._windows[release] = window
        while len(self._windows) > _MAX_WINDOWS:
            oldest = next(iter(self._windows))
            del self._windows[oldest], self._expected[oldest]
        return window

    def _too_much(self) -> Excess | None:
        """Return what is too much at this moment, of predictions or of the hour."""
        with self._counting:
            for release, window in self._windows.items():
                window.forget(self._clock.monotonic())
                if excess := window.excess(self._expected.get(release, {})):
                    return excess
        if self._quotas is None:
            return None
        newest = self._newest
        since = newest.at if newest and newest.state == "automatic" else None
        tallies = (self.buckets(), *self._said.tallies)
        return over_quota(self._quotas, tallies, self._clock.now(), since)

    def _follow(self) -> None:
        """Read what was recorded since the last look; after a start that a person or quiet gave, count anew."""
        before = self._newest
        self._newest = newest_change(self._ledger, before)
        self._is_known = True
        if self._newest is not before:
            self._loud_s = self._clock.monotonic()
            if self._newest is not None and self._newest.state == "automatic":
                with self._counting:
                    self._windows.clear()
                    self._expected.clear()

    def _record_stop(self) -> None:
        """Record what this gateway found, unless it is stopped in the ledger already."""
        while self._excess is not None:
            if self._newest is not None and self._newest.state == "stopped":
                self._excess = None
                return
            self._append(stop=True, excess=self._excess, by=self._gateway)
            self._follow()

    def _append(self, *, stop: bool, excess: Excess, by: str) -> EnforcementChange | None:
        """Return the change that was recorded; None where another one took its number."""
        now = self._clock.now()
        change = EnforcementChange(
            number=next_number(self._newest),
            state="stopped" if stop else "automatic",
            cause=excess.cause,
            reason=excess.reason,
            by=by,
            at=now,
            release=excess.release,
            policy=excess.policy,
        )
        return change if record_change(self._ledger, change, now) else None

    def _close_when_quiet(self) -> None:
        newest = self._newest
        if newest is None or newest.state != "stopped":
            return
        quiet_s = self._auto_close_s(newest)
        if quiet_s is None:
            return
        is_quiet = self._is_telling(newest) and not self._said.is_loud and self._too_much() is None
        if not is_quiet:
            self._loud_s = self._clock.monotonic()
        elif self._clock.monotonic() - self._loud_s >= quiet_s:
            reason = f"nothing was too much for {quiet_s:g} s; the contract lets it go on"
            self._append(stop=False, excess=Excess("quiet", reason), by=self._gateway)
            self._follow()

    def _auto_close_s(self, newest: EnforcementChange) -> float | None:
        if newest.cause == "predictions" and self._breaker is not None:
            return self._breaker.auto_close_s
        if newest.cause == "quota" and self._quotas is not None:
            return self._quotas.auto_close_s
        return None

    def _is_telling(self, newest: EnforcementChange) -> bool:
        """Whether this gateway judged enough to call it quiet: where nobody uploads, nothing is known."""
        if newest.cause != "predictions":
            return True
        with self._counting:
            for window in self._windows.values():
                window.forget(self._clock.monotonic())
            return any(window.is_telling for window in self._windows.values())
