"""Circuit breakers: a dependency that keeps failing is left alone for a while, and uploads do not wait for it.

After M. Nygard, Release It! (2018), ch. 5. Closed: calls pass, the newest outcomes are kept. Open: none passes. Half
open: one call at a time is let through; it closes the circuit when it succeeds and opens it again when it fails.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

from prometheus_client import Counter, Gauge

from moderation.clock import Clock
from moderation.errors import TemporaryError
from moderation.serving_rules import BreakerRules
from serving.errors import PredictorOverloaded, PredictorRefused, PredictorTimeout

IS_OPEN: Final = Gauge(
    "tidegate_circuit_open", "Whether a dependency is left alone (1) or asked (0).", ["dependency"]
)
OPENED: Final = Counter(
    "tidegate_circuit_opened_total", "How often a circuit was opened.", ["dependency"]
)

State = Literal["closed", "open", "half open"]


class CircuitOpen(TemporaryError):
    """The dependency failed too often and is not asked now; go on without it."""


class Breaker:
    """The breaker of one dependency; all its calls come from one event loop.

    Args:
        name: of the dependency, in metrics and messages.
        rules: when it opens, and for how long.
        clock: its monotonic seconds.
    """

    def __init__(self, name: str, rules: BreakerRules, clock: Clock) -> None:
        self._name, self._rules, self._clock = name, rules, clock
        self._failed: deque[bool] = deque(maxlen=rules.calls)
        self._open_until_s: float | None = None
        self._is_trying = False
        IS_OPEN.labels(name).set(0)
        OPENED.labels(name)  # a series that begins at 0: the first opening is an increase

    def state(self) -> State:
        """What a call would meet."""
        if self._open_until_s is None:
            return "closed"
        return "half open" if self._clock.monotonic() >= self._open_until_s else "open"

    @contextmanager
    def call(self, *, is_fair: bool = True) -> Iterator[None]:
        """Let a call pass and learn how it ends: what may pass, or takes too long, is a failure of the dependency.

        What else is raised says nothing of the dependency: a caller that went away, a fault of ours, a predictor that
        works but has no room now, or refuses this one request.

        Args:
            is_fair: whether the dependency had time enough that a timeout is its own fault.

        Raises:
            CircuitOpen: instead of calling.
        """
        is_trial = self._admit()
        try:
            yield
        except (PredictorOverloaded, PredictorRefused):
            raise
        except (TemporaryError, TimeoutError) as error:
            if is_fair or not isinstance(error, (TimeoutError, PredictorTimeout)):
                self._learn(is_failure=True)
            raise
        else:
            self._learn(is_failure=False)
        finally:
            if is_trial:
                self._is_trying = False

    def _admit(self) -> bool:
        """Return whether the call is the trial of a circuit that is half open."""
        state = self.state()
        if state == "closed":
            return False
        if state == "open" or self._is_trying:
            raise CircuitOpen(
                f"{self._name} failed in {self._rules.share:.0%} of its last {self._rules.calls} calls or more and is "
                f"left alone for {self._rules.open_s:g} s at a time",
                delay_s=self._rules.open_s,
            )
        self._is_trying = True
        return True

    def _learn(self, *, is_failure: bool) -> None:
        if self._open_until_s is not None:  # the trial, or a call from before
            if not is_failure:
                self._open_until_s = None
                self._failed.clear()
                IS_OPEN.labels(self._name).set(0)
            elif self.state() == "half open":
                self._open()
            return
        self._failed.append(is_failure)
        is_known = len(self._failed) == self._rules.calls
        if is_known and sum(self._failed) >= self._rules.share * self._rules.calls:
            self._open()

    def _open(self) -> None:
        self._open_until_s = self._clock.monotonic() + self._rules.open_s
        IS_OPEN.labels(self._name).set(1)
        OPENED.labels(self._name).inc()


class Breakers:
    """A breaker for each dependency of one kind, made when it is first called."""

    def __init__(self, kind: str, rules: BreakerRules, clock: Clock) -> None:
        self._kind, self._rules, self._clock = kind, rules, clock
        self._by_name: dict[str, Breaker] = {}

    def of(self, name: str) -> Breaker:
        """Return the breaker of one dependency, such as one predictor's URL."""
        if name not in self._by_name:
            self._by_name[name] = Breaker(f"{self._kind} {name}", self._rules, self._clock)
        return self._by_name[name]

    def states(self) -> dict[str, str]:
        """Return what a call to each dependency that was called before would meet."""
        return {f"{self._kind} {name}": breaker.state() for name, breaker in self._by_name.items()}
