"""The micro-batching queue: listings of many requests, by priority and deadline, into batches of the models.

Everything is decided on the event loop; processes prepare listings, and threads run batches. A listing waits, is
prepared (decoded, cut into tokens), is ready, and goes through the models in a batch. An idle engine takes what is
there at once; one that just finished a batch of several waits for as many again, but no longer than sharing a batch
saves. While listings wait to be prepared, the processor is what all wait for, and a fuller batch leaves more of it.

A batch that fails is run again listing by listing, so that one bad listing fails alone. What was cancelled or can no
longer be in time leaves without being computed.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from moderation.clock import Clock, SystemClock
from moderation.scores import pick_scores
from moderation.scoring import Scores, ScoringItem
from moderation.serving_rules import PredictorRules
from moderation.telemetry import past_span, span
from serving.predictor.backlog import Backlog, Entry, Priority
from serving.predictor.latency import LatencyModel
from serving.predictor.measures import BATCH_LISTINGS, BATCH_SECONDS, RETRIED, WAIT_SECONDS
from serving.predictor.parts import joined, num_parts, part
from serving.predictor.preparing import Outcome, Preparing
from serving.predictor.room import MIN_RETRY_S, Room, count
from serving.predictor.terms import Overloaded, Reason, Request, Scoring, Terms, TooLate
from serving.predictor.threads import ThreadPlan, thread_pool

__all__ = ["BatchQueue", "Overloaded", "Terms", "TooLate"]

_LOG = logging.getLogger(__name__)

# Batches' worth of listings that are prepared ahead of the engine: enough to fill the next batch of each worker.
_BATCHES_AHEAD: Final = 2
_TEXTS_TOGETHER: Final = 8
_DRAIN_POLL_S: Final = 0.01


class BatchQueue:
    """One bundle behind a queue; all calls come from one event loop.

    Args:
        scoring: the loaded bundle.
        preparing: prepares listings for it; the queue closes it.
        rules: sizes and bounds.
        plan: threads.
        clock: its monotonic seconds.
    """

    def __init__(
        self,
        scoring: Scoring,
        preparing: Preparing,
        rules: PredictorRules,
        plan: ThreadPlan,
        clock: Clock | None = None,
    ) -> None:
        self.latency = LatencyModel()
        self._scoring, self._preparing = scoring, preparing
        self._rules, self._plan = rules, plan
        self._clock = clock or SystemClock()
        self._waiting, self._ready = Backlog(rules.fair_every), Backlog(rules.fair_every)
        self._room = Room(rules, plan, self.latency)
        self._running = self._running_passes = 0
        self._target = 1
        self._ended_s = self._ready_since_s = -math.inf
        self._hold: asyncio.TimerHandle | None = None
        self._open: set[Request] = set()
        self._is_closing = self._is_closed = False
        self._score_pool = thread_pool(plan.workers, "score", plan.worker_cores)

    async def score(self, items: Sequence[ScoringItem], terms: Terms) -> Scores:
        """Return the scores of one request's listings, at least one, in their order.

        Cancelling the call takes what is not yet in a batch out of the queue.

        Raises:
            Overloaded: at once, if there is no room, or those ahead leave no time before the deadline.
            TooLate: if the deadline cannot be met.
            Exception: what the scorer raised for a listing of this request.
        """
        loop = asyncio.get_running_loop()
        request = Request(terms, loop.create_future())
        now_s = self._clock.monotonic()
        request.entries = [
            Entry(
                request,
                place,
                item,
                terms.priority,
                now_s,
                terms.deadline_s,
                terms.num_bytes // len(items),
                len(item.images) + 1,
            )
            for place, item in enumerate(items)
        ]
        self._room.check(request, now_s, self._running_passes, self._is_closing)
        request.num_open = len(request.entries)
        for entry in request.entries:
            self._waiting.add(entry)
            self._room.tally(entry, 1)
        timer = None
        if terms.deadline_s < math.inf:
            shortest_s = self.latency.seconds(min(entry.passes for entry in request.entries))
            delay_s = max(0.0, terms.deadline_s - shortest_s - now_s)
            timer = loop.call_later(delay_s, self._expire, request)
        self._open.add(request)
        self._pump(loop)
        try:
            await request.future
        except asyncio.CancelledError:
            self._leave_queue(request, "cancelled")
            raise
        finally:
            self._open.discard(request)
            if timer is not None:
                timer.cancel()
        return _joined(request)

    def check_unread(self, num_bytes: int, priority: Priority | None = None) -> None:
        """Refuse a request before it costs anything; what passes may still be refused by `score`.

        Args:
            num_bytes: of the request, as far as they are known.
            priority: None where it is not known.

        Raises:
            Overloaded: if it could not be let in now, whatever it holds.
        """
        self._room.check_unread(num_bytes, priority, self._running_passes, self._is_closing)

    async def drain(self) -> int:
        """Refuse what comes, and return when everything that was let in has its answer.

        Returns:
            Requests that had none after the contract's `stop_s`, and were refused then.
        """
        self._is_closing = True
        end_s = self._clock.monotonic() + self._rules.stop_s
        while self._open and self._clock.monotonic() < end_s:
            await asyncio.sleep(_DRAIN_POLL_S)
        left = [request for request in self._open if not request.is_over]
        for request in left:
            error = Overloaded("the predictor stops now; ask another one", delay_s=MIN_RETRY_S)
            self._fail(request, error, "refused")
        return len(left)

    def close(self) -> None:
        """End threads and processes; what still waits is not answered."""
        self._is_closing = self._is_closed = True
        self._preparing.close()
        self._score_pool.shutdown(wait=False, cancel_futures=True)

    def _expire(self, request: Request) -> None:
        """Answer a request whose time has run out while a listing of it is not yet in a batch."""
        if request.is_over or not any(
            entry in self._waiting or entry in self._ready or entry.is_preparing
            for entry in request.entries
        ):
            return
        self._ease()
        self._fail(request, TooLate("the deadline came before there was room in a batch"), "late")

    def _ease(self) -> None:
        """Doubt the estimate where it refused; what runs will show how long it takes."""
        if not self._running:
            self.latency.ease()

    def _fail(self, request: Request, error: Exception, reason: Reason = "cancelled") -> None:
        """Answer a request with an error, and take what else is left of it out of the queue."""
        if not request.is_over:
            request.future.set_exception(error)
        self._leave_queue(request, reason)

    def _leave_queue(self, request: Request, reason: Reason) -> None:
        for entry in request.entries:
            for stage in (self._waiting, self._ready):
                if entry in stage:
                    stage.remove(entry)
                    self._room.tally(entry, -1)
                    count(entry.priority, reason)
            if entry.is_preparing:
                count(entry.priority, reason)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start whatever can start now."""
        if self._is_closed:
            return
        # Each line by itself: prepared backfill must not keep an upload from being prepared.
        most_ready = self._rules.max_batch * _BATCHES_AHEAD * self._plan.workers
        short = [p for p in Priority if self._ready.count(p) < most_ready]
        while taken := self._take_to_prepare(short):
            self._prepare(taken, loop)
        while self._running < self._plan.workers and self._ready and not self._is_held(loop):
            batch, late = self._ready.take_batch(
                self._clock.monotonic(),
                self._rules.max_batch,
                self.latency,
                self._rules.behind_ms / 1e3,
            )
            for entry in late:
                self._room.tally(entry, -1)
                count(entry.priority, "late")
                self._ease()
                self._fail(entry.request, TooLate("the deadline can no longer be met"), "late")
            if batch:
                self._start(batch, loop)

    def _take_to_prepare(self, short: Sequence[Priority]) -> list[Entry]:
        """Return whose next part is prepared now: one with photos, or a few texts, so that processes wake less often.

        Args:
            short: lines of which not enough is ready.
        """
        is_due = self._waiting.is_lower_due
        among = [
            line
            for line in short
            if self._preparing.has_room(is_urgent=is_due or line is Priority.UPLOAD)
        ]
        taken: list[Entry] = []
        most = min(_TEXTS_TOGETHER, -(-len(self._waiting) // self._plan.preparers))
        while (entry := self._waiting.first(among)) and (
            not taken or (len(taken) < most and not entry.item.images)
        ):
            self._waiting.take(among)
            entry.is_preparing = True
            taken.append(entry)
            if entry.item.images:
                break
        return taken

    def _is_held(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Return whether the engine waits for its batch to fill; if so, for how long is set."""
        if self._hold is not None:
            self._hold.cancel()
            self._hold = None
        wait_s = self._rules.wait_ms / 1e3
        wanted, end_s = self._rules.max_batch, self._ready_since_s + wait_s
        if not self._are_more_prepared():
            # Waiting longer than the fixed time that one batch less costs never pays.
            wanted = min(self._target, wanted)
            end_s = self._ended_s + min(wait_s, self.latency.fixed_s)
        passes = sum(entry.passes for entry in self._ready)
        if len(self._ready) >= wanted or self.latency.is_spread(passes):
            return False
        earliest_s = min(entry.deadline_s for entry in self._ready)
        # A timer can be late; whoever could not wait for all of it does not begin to.
        end_s = min(end_s, earliest_s - self.latency.bound_s(passes) - wait_s)
        left_s = end_s - self._clock.monotonic()
        if left_s <= 0:
            return False
        self._hold = loop.call_later(left_s, self._end_hold, loop)
        return True

    def _are_more_prepared(self) -> bool:
        """Return whether listings as urgent as those that are ready wait to be prepared."""
        next_up, first = self._waiting.first(), self._ready.first()
        return next_up is not None and first is not None and next_up.priority <= first.priority

    def _end_hold(self, loop: asyncio.AbstractEventLoop) -> None:
        self._target = len(self._ready)
        self._pump(loop)

    def _start(self, batch: list[Entry], loop: asyncio.AbstractEventLoop) -> None:
        now_s = self._clock.monotonic()
        for entry in batch:
            self._room.tally(entry, -1)
            WAIT_SECONDS.labels(entry.priority.name.lower()).observe(now_s - entry.arrived_s)
        self._running += 1
        self._running_passes += sum(entry.passes for entry in batch)
        BATCH_LISTINGS.observe(len(batch))
        # A batch serves many requests; in traces it belongs to the one that waited longest.
        self._score_pool.submit(batch[0].request.context.copy().run, self._run, batch, loop)

    def _prepare(self, taken: Sequence[Entry], loop: asyncio.AbstractEventLoop) -> None:
        def tell(outcomes: Sequence[Outcome]) -> None:
            for entry, outcome in zip(taken, outcomes, strict=True):
                self._take_part(entry, outcome)
            self._pump(loop)

        self._preparing.submit([part(entry.item, len(entry.parts)) for entry in taken], tell)

    def _take_part(self, entry: Entry, outcome: Outcome) -> None:
        """Take what was prepared; where photos are left the listing is next in its line, behind whoever is more urgent.

        One after the other: a listing that brings processes down brings down no more of them than as a whole.
        """
        entry.is_preparing = False
        if outcome.prepared is None:
            self._room.tally(entry, -1)
            self._fail(entry.request, outcome.error or RuntimeError("nothing was prepared"))
            return
        entry.parts.append(outcome.prepared)
        entry.prepare_s += outcome.seconds
        context = entry.request.context.copy()
        context.run(past_span, "predictor.prepare", outcome.begin_s, outcome.seconds)
        if entry.request.is_over:
            self._room.tally(entry, -1)
        elif len(entry.parts) < num_parts(entry.item):
            self._waiting.put_back(entry)
        else:
            self._take_prepared(entry)

    def _take_prepared(self, entry: Entry) -> None:
        entry.prepared = joined(entry.parts)
        entry.parts.clear()
        self._room.learn_prepare(entry.prepare_s)
        if not self._ready:
            self._ready_since_s = self._clock.monotonic()
        self._ready.add(entry)

    def _run(self, batch: list[Entry], loop: asyncio.AbstractEventLoop) -> None:
        """Run one batch; on a thread."""
        begin_s, seconds = self._clock.monotonic(), None
        outcomes: list[Any]
        with span("predictor.batch", self._clock, num_items=len(batch)):
            try:
                outcomes = list(self._score(batch))
                seconds = self._clock.monotonic() - begin_s
            except Exception as error:
                outcomes = [error] if len(batch) == 1 else [*map(self._score_alone, batch)]
        _tell(loop, self._scored, batch, outcomes, seconds, loop)

    def _score(self, batch: Sequence[Entry]) -> list[tuple[Scores, int]]:
        with_embeddings = any(entry.request.terms.with_embeddings for entry in batch)
        prepared = [entry.prepared for entry in batch if entry.prepared is not None]
        scores = self._scoring.score_prepared(prepared, with_embeddings=with_embeddings)
        return [(scores, row) for row in range(len(batch))]

    def _score_alone(self, entry: Entry) -> tuple[Scores, int] | Exception:
        try:
            return self._score([entry])[0]
        except Exception as error:
            return error

    def _scored(
        self,
        batch: list[Entry],
        outcomes: list[Any],
        seconds: float | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        passes = sum(entry.passes for entry in batch)
        self._running -= 1
        self._running_passes -= passes
        self._ended_s = self._clock.monotonic()
        if seconds is not None:
            self.latency.learn(passes, seconds)
            BATCH_SECONDS.observe(seconds)
        elif len(batch) > 1:
            RETRIED.inc()
            _LOG.warning("a batch failed and was run again one by one", extra={"size": len(batch)})
        self._target = len(batch) + len(self._ready)
        for entry, outcome in zip(batch, outcomes, strict=True):
            self._settle(entry, outcome)
        self._pump(loop)

    def _settle(self, entry: Entry, outcome: Any) -> None:
        request: Request = entry.request
        entry.prepared = None
        if request.is_over:
            return
        if isinstance(outcome, Exception):
            self._fail(request, outcome)
            return
        entry.outcome = outcome
        request.num_open -= 1
        if not request.num_open:
            request.future.set_result(None)


def _joined(request: Request) -> Scores:
    outcomes = [entry.outcome for entry in request.entries if entry.outcome is not None]
    return pick_scores(outcomes)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    """Call back on the event loop; one that is closed has nobody left to tell."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        _LOG.info("a result came after the end")
