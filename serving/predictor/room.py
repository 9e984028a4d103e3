"""Who is let in: what waits under each priority, how long that takes, and who is refused at once."""

import math

from moderation.serving_rules import LineRules, PredictorRules
from serving.predictor.backlog import Entry, Priority
from serving.predictor.latency import LatencyModel
from serving.predictor.measures import DEPTH, DEPTH_BYTES, DROPPED
from serving.predictor.terms import Overloaded, Reason, Request, TooLate
from serving.predictor.threads import ThreadPlan

_MIN_RETRY_S = 0.05
_PREPARE_GAIN = 0.05


class Room:
    """The bounds of a queue and what is in it.

    Args:
        rules: the bounds.
        plan: threads.
        latency: how long batches take.
    """

    def __init__(self, rules: PredictorRules, plan: ThreadPlan, latency: LatencyModel) -> None:
        self._rules, self._plan, self._latency = rules, plan, latency
        self._lines: dict[Priority, LineRules] = {
            priority: getattr(rules.lines, priority.name.lower()) for priority in Priority
        }
        self._depth, self._bytes, self._passes = ([0] * len(Priority) for _ in range(3))
        self._prepare_s = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not any(self._depth)

    def tally(self, entry: Entry, sign: int) -> None:
        """Count a listing in (1) or out (-1)."""
        priority = entry.priority
        self._depth[priority] += sign
        self._bytes[priority] += sign * entry.num_bytes
        self._passes[priority] += sign * entry.passes
        DEPTH.labels(priority.name.lower()).set(self._depth[priority])
        DEPTH_BYTES.labels(priority.name.lower()).set(self._bytes[priority])

    def learn_prepare(self, seconds: float) -> None:
        """Take the time of one prepared listing into account."""
        self._prepare_s += _PREPARE_GAIN * (seconds - self._prepare_s)

    def wait_s(self, priority: Priority, running_passes: int = 0) -> float:
        """Return how long a listing of this priority would wait for its batch, as far as is known."""
        ahead = range(priority + 1)
        listings = sum(self._depth[n] for n in ahead)
        passes = sum(self._passes[n] for n in ahead) + running_passes
        num_batches = math.ceil(listings / self._rules.max_batch) + min(running_passes, 1)
        engine_s = self._latency.drain_s(passes, num_batches) / self._plan.workers
        return max(engine_s, listings * self._prepare_s / self._plan.prepare_threads)

    def check(self, request: Request, now_s: float, running_passes: int, is_closing: bool) -> None:
        """Let a request in, or say why not.

        Raises:
            Overloaded: if there is no room, or those ahead leave no time before the deadline.
            TooLate: if the deadline could not be met even alone.
        """
        terms, num = request.terms, len(request.entries)
        wait_s = self.wait_s(terms.priority, running_passes)
        if is_closing or not self._has_room(request):
            count(terms.priority, "refused", num)
            reason = "is stopping" if is_closing else "has no room"
            raise Overloaded(
                f"the predictor {reason}; come back later", delay_s=max(wait_s, _MIN_RETRY_S)
            )
        left_s = terms.deadline_s - now_s
        needed_s = self._latency.bound_s(max(entry.passes for entry in request.entries))
        if left_s <= needed_s:
            self._latency.ease()
            count(terms.priority, "late", num)
            raise TooLate(f"{left_s * 1e3:.0f} ms are left, scoring takes {needed_s * 1e3:.0f} ms")
        if left_s <= needed_s + wait_s:
            count(terms.priority, "refused", num)
            raise Overloaded(
                f"{left_s * 1e3:.0f} ms are left, those ahead take {wait_s * 1e3:.0f} ms",
                delay_s=max(wait_s, _MIN_RETRY_S),
            )

    def _has_room(self, request: Request) -> bool:
        """A request beyond the bounds by itself is let in when nobody waits: refused, it could never come in."""
        terms = request.terms
        line, depth = self._lines[terms.priority], self._depth[terms.priority]
        return not depth or (
            depth + len(request.entries) <= line.items
            and self._bytes[terms.priority] + terms.num_bytes <= line.mib * 2**20
        )


def count(priority: Priority, reason: Reason, num: int = 1) -> None:
    """Count listings that are not computed."""
    DROPPED.labels(priority.name.lower(), reason).inc(num)
