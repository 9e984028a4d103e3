"""Who is let in: what waits under each priority, how long that takes, and who is refused at once."""

import math
from typing import NoReturn

from moderation.serving_rules import LineRules, PredictorRules
from serving.predictor.backlog import Entry, Priority
from serving.predictor.latency import LatencyModel
from serving.predictor.measures import DEPTH, DEPTH_BYTES, DROPPED
from serving.predictor.terms import Overloaded, Reason, Request, TooLate
from serving.predictor.threads import ThreadPlan

MIN_RETRY_S = 0.05
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
        return max(engine_s, listings * self._prepare_s / self._plan.preparers)

    def check(self, request: Request, now_s: float, running_passes: int, is_closing: bool) -> None:
        """Let a request in, or say why not.

        Raises:
            Overloaded: if there is no room, or those ahead leave no time before the deadline.
            TooLate: if the deadline could not be met even alone.
        """
        terms, num = request.terms, len(request.entries)
        wait_s = self.wait_s(terms.priority, running_passes)
        if is_closing or not self._has_room(terms.priority, num, terms.num_bytes):
            self._refuse(terms.priority, num, wait_s, is_closing)
        left_s = terms.deadline_s - now_s
        needed_s = self._latency.bound_s(max(entry.passes for entry in request.entries))
        if left_s <= needed_s:
            if not running_passes:
                self._latency.ease()
            count(terms.priority, "late", num)
            raise TooLate(f"{left_s * 1e3:.0f} ms are left, scoring takes {needed_s * 1e3:.0f} ms")
        if left_s <= needed_s + wait_s:
            count(terms.priority, "refused", num)
            raise Overloaded(
                f"{left_s * 1e3:.0f} ms are left, those ahead take {wait_s * 1e3:.0f} ms",
                delay_s=max(wait_s, MIN_RETRY_S),
            )

    def check_unread(
        self, num_bytes: int, priority: Priority | None, running_passes: int, is_closing: bool
    ) -> None:
        """Refuse a request that nobody has read yet, if it would be refused for want of room then.

        Args:
            num_bytes: of the request, as far as they are known.
            priority: that it has; None where that is not known, and every line would have to refuse it.
            running_passes: in the models now.
            is_closing: whether nothing is let in any more.

        Raises:
            Overloaded: if there is no room for even one listing.
        """
        lines = tuple(Priority) if priority is None else (priority,)
        if is_closing or not any(self._has_room(line, 1, num_bytes) for line in lines):
            self._refuse(lines[0], 1, self.wait_s(lines[0], running_passes), is_closing)

    def _refuse(self, priority: Priority, num: int, wait_s: float, is_closing: bool) -> NoReturn:
        count(priority, "refused", num)
        reason = "is stopping" if is_closing else "has no room"
        raise Overloaded(
            f"the predictor {reason}; come back later", delay_s=max(wait_s, MIN_RETRY_S)
        )

    def _has_room(self, priority: Priority, num: int, num_bytes: int) -> bool:
        """A request beyond the bounds by itself is let in when nobody waits: refused, it could never come in."""
        line, depth = self._lines[priority], self._depth[priority]
        return not depth or (
            depth + num <= line.items and self._bytes[priority] + num_bytes <= line.mib * 2**20
        )


def count(priority: Priority, reason: Reason, num: int = 1) -> None:
    """Count listings that are not computed."""
    DROPPED.labels(priority.name.lower(), reason).inc(num)
