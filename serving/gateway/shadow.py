"""The shadow: a second release that is asked the same, off the answer's path, and whose answer decides nothing."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter

from ledger.events import Event, ShadowAnswer, from_shadow
from ledger.ledger import Ledger
from moderation.attestation import TierName
from moderation.clock import Clock
from moderation.decision import Attempt, Decision
from moderation.errors import PermanentError, TidegateError
from moderation.policy import PolicyFile
from moderation.serving_rules import BreakerRules, ShadowRules
from serving.client import PredictorPool, Query
from serving.errors import PredictorTimeout
from serving.gateway.breaker import Breakers, CircuitOpen
from serving.gateway.heartbeat import ShadowTraffic, Traffic
from serving.gateway.record import answered
from serving.routing import Router, RoutingTable

_LOG = logging.getLogger(__name__)

SHADOWS: Final = Counter(
    "tidegate_shadow_requests_total", "What became of requests to the shadow.", ["outcome"]
)

LOST: Final = Counter(
    "tidegate_shadow_answers_lost_total", "Answers of a shadow that the ledger refused for good."
)

_MIB: Final = 2**20


@dataclass(frozen=True)
class ShadowTarget:
    """The release that is asked beside the one that answers."""

    release: str
    url: str
    caps: Mapping[str, TierName]
    revision: int

    @classmethod
    def of(cls, table: RoutingTable | None) -> "ShadowTarget | None":
        """Return the shadow that a routing table names, or None."""
        if table is None or table.shadow is None:
            return None
        route = table.releases[table.shadow]
        return cls(table.shadow, route.url, route.caps, table.revision)


class Shadow:
    """Asks the shadow and keeps what it says; its connections, its time and its breaker are its own.

    Answers wait in memory until `flush` writes them in one transaction; those of the last second are lost with the
    process.

    Args:
        rules: what it may cost.
        breaker_rules: when a failing shadow is left alone.
        router: names the shadow.
        policies: give overrides; no tier of a shadow is ever applied.
        traffic: of uploads, before which shadows are shed.
        clock: times answers.
    """

    def __init__(
        self,
        rules: ShadowRules,
        breaker_rules: BreakerRules,
        *,
        router: Router,
        policies: PolicyFile,
        traffic: Traffic,
        clock: Clock,
    ) -> None:
        self._rules, self._router, self._policies = rules, router, policies
        self._traffic, self._clock = traffic, clock
        self._breakers = Breakers("shadow", breaker_rules, clock)
        self._predictors = PredictorPool()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes_in_flight = 0
        self._answers: list[tuple[ShadowAnswer, str | None]] = []
        self._flushing = threading.Lock()
        self._counts = {"sent": 0, "shed": 0, "failed": 0}

    def counts(self) -> ShadowTraffic:
        """Return what became of requests since the start."""
        return ShadowTraffic(**self._counts)

    def states(self) -> dict[str, str]:
        """Return the state of every breaker by name."""
        return self._breakers.states()

    def send(self, query: Query, decision: Decision, seller_id: str | None) -> None:
        """Ask the shadow about an upload that was decided; returns at once and never fails.

        Args:
            query: what the answering release was asked.
            decision: as it was recorded.
            seller_id: whose key the answer is sealed under.
        """
        target = ShadowTarget.of(self._router.table)
        if target is None or decision.attempts[0].release == target.release:
            return
        num_bytes = sum(map(len, query.images))
        is_left_alone = self._breakers.of(target.url).state() == "open"
        if is_left_alone or self._is_too_much(num_bytes):
            self._count("shed")
            return
        self._bytes_in_flight += num_bytes
        task = asyncio.get_running_loop().create_task(
            self._ask(target, query, decision, seller_id), name="shadow"
        )
        self._tasks.add(task)

        def done(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._bytes_in_flight -= num_bytes

        task.add_done_callback(done)

    @property
    def has_answers(self) -> bool:
        """Whether answers wait for `flush`."""
        return bool(self._answers)

    def flush(self, ledger: Ledger) -> None:
        """Write the answers that wait, all at once; where the ledger fails they go on waiting. Waits for the disk.

        Raises:
            LedgerUnavailable: if nothing can be written now.
        """
        with self._flushing:
            waiting = self._answers[:]
            events = [self._event(*one) for one in waiting if not _is_erased(ledger, one[0])]
            try:
                if events:
                    ledger.append(events)
            except PermanentError as error:
                # One that never can be written must not hold back the others.
                LOST.inc(_append_each(ledger, events))
                _LOG.error("a shadow's answer was not kept", extra={"reason": str(error)})
            del self._answers[: len(waiting)]

    async def close(self) -> None:
        """Give up what is in flight and close connections; answers that wait still can be flushed."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._predictors.close()

    def _is_too_much(self, num_bytes: int) -> bool:
        rules = self._rules
        return (
            len(self._tasks) >= rules.max_in_flight
            or self._bytes_in_flight + num_bytes > rules.max_mib_in_flight * _MIB
            or self._traffic.uploads > rules.shed_above
            or len(self._answers) + len(self._tasks) >= rules.max_kept
        )

    async def _ask(
        self, target: ShadowTarget, query: Query, decision: Decision, seller_id: str | None
    ) -> None:
        begin = self._clock.monotonic()
        try:
            with self._breakers.of(target.url).call():
                self._count("sent")
                answer = await self._predictors.get(target.url).ask(
                    query,
                    bundle=target.release,
                    timeout_s=self._rules.timeout_s,
                    priority="backfill",
                )
            attempt = answered(
                answer,
                self._policies,
                caps=target.caps,
                now=self._clock.now(),
                latency_ms=self._ms_since(begin),
            )
        except CircuitOpen:
            self._count("shed")
            return
        except Exception as error:
            # The edge where nothing may come back to the upload: whatever fails here is the shadow's own answer.
            if not isinstance(error, TidegateError):
                _LOG.exception("the shadow's client failed")
            self._count("failed")
            attempt = Attempt(
                role="shadow",
                release=target.release,
                status="timeout" if isinstance(error, PredictorTimeout) else "error",
                latency_ms=self._ms_since(begin),
                tier="allow",
                error=f"{type(error).__name__}: {error}",
            )
        self._answers.append((self._answer(target, decision, attempt), seller_id))

    def _answer(self, target: ShadowTarget, decision: Decision, attempt: Attempt) -> ShadowAnswer:
        return ShadowAnswer(
            submission_id=decision.submission_id,
            trace_id=decision.trace_id,
            routing_revision=target.revision,
            attempt=attempt.model_copy(update={"role": "shadow"}),
            answered_at=self._clock.now(),
        )

    def _event(self, answer: ShadowAnswer, seller_id: str | None) -> Event:
        return from_shadow(answer, recorded_at=self._clock.now(), seller_id=seller_id)

    def _ms_since(self, begin: float) -> float:
        return (self._clock.monotonic() - begin) * 1e3

    def _count(self, outcome: str) -> None:
        SHADOWS.labels(outcome).inc()
        self._counts[outcome] += 1


def _append_each(ledger: Ledger, events: list[Event]) -> int:
    """Append one by one, and return how many were refused."""
    num_refused = 0
    for event in events:
        try:
            ledger.append([event])
        except PermanentError:
            num_refused += 1
    return num_refused


def _is_erased(ledger: Ledger, answer: ShadowAnswer) -> bool:
    return ledger.is_erased(f"decision:{answer.submission_id}")
