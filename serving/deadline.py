"""One deadline per upload, and what each stage may take of it; what the others leave goes to the predictor."""

from typing import Final

from prometheus_client import Counter

from moderation.clock import Clock
from moderation.serving_rules import Budgets
from serving.errors import BadRequest, PredictorTimeout

HEADER: Final = "x-deadline-ms"
"""A caller's own deadline, shorter than the contract's."""

SPENT: Final = Counter(
    "tidegate_deadline_spent_total", "Stages that nothing was left for when they came.", ["stage"]
)


class DeadlineSpent(PredictorTimeout):
    """The upload's time was over before the predictor could be asked; decide by the failure policy."""


class Deadline:
    """The time of one upload, from when its body is there until it is answered.

    Args:
        budgets: of the contract.
        clock: its monotonic seconds.
        total_ms: of this upload; that of the contract where the caller asked for none.
    """

    def __init__(self, budgets: Budgets, clock: Clock, total_ms: int | None = None) -> None:
        self.total_ms = min(total_ms or budgets.total_ms, budgets.total_ms)
        self._budgets, self._clock = budgets, clock
        self._end = clock.monotonic() + self.total_ms / 1e3

    def left_s(self) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self._end - self._clock.monotonic())

    def behaviour_s(self) -> float:
        """Return how long behaviour features may be waited for: their share, and never more than is left."""
        return self._counted("behaviour", self._share_s(self._budgets.shares.behaviour))

    def predictor_s(self) -> float:
        """Return how long the predictor may be waited for: all that is left but what recording the decision needs."""
        kept_s = self._budgets.shares.record * self.total_ms / 1e3
        return self._counted("predictor", max(0.0, self.left_s() - kept_s))

    def is_fair_to_behaviour(self, given_s: float) -> bool:
        """Return whether a feature store that did not answer within `given_s` is to blame for it."""
        usual_s = self._budgets.shares.behaviour * self._budgets.total_ms / 1e3
        return given_s >= self._budgets.fair_share * usual_s

    def is_fair_to_predictor(self, given_s: float) -> bool:
        """Return whether a predictor that did not answer within `given_s` is to blame for it."""
        shares = self._budgets.shares
        usual_s = (1 - shares.behaviour - shares.record) * self._budgets.total_ms / 1e3
        return given_s >= self._budgets.fair_share * usual_s

    def _share_s(self, share: float) -> float:
        return min(share * self.total_ms / 1e3, self.left_s())

    def _counted(self, stage: str, given_s: float) -> float:
        if given_s <= 0:
            SPENT.labels(stage).inc()
        return given_s


def asked_ms(header: str | None, budgets: Budgets) -> int | None:
    """Return the deadline that a caller asks for in milliseconds; None where it asks for none.

    One beyond the contract's is kept by the contract's own.

    Raises:
        BadRequest: if it is no whole number, or less than any decision takes.
    """
    if header is None:
        return None
    if not (header.isascii() and header.isdigit()) or len(header) > 9:
        raise BadRequest(f"{HEADER}: send whole milliseconds, such as {budgets.total_ms}")
    if int(header) < budgets.least_ms:
        raise BadRequest(f"{HEADER}: send {budgets.least_ms} to {budgets.total_ms}")
    return int(header)
