"""Where the gateway keeps what happened: in the ledger, by group commit; where that fails or takes long, in the spill.

Nothing is answered that is not on a disk. What is spilled is found here as if it were in the ledger, and moved there as
soon as that can be written.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Final, ParamSpec, TypeVar

from prometheus_client import Counter, Gauge

from ledger.draining import Drainer
from ledger.events import Event, EventKind, StoredEvent, to_decision, to_submission
from ledger.frames import Entry
from ledger.group import GroupWriter
from ledger.keys import FILE_NAME, KeyRing
from ledger.ledger import LedgerUnavailable, SqliteLedger
from ledger.spill import Spill, SpillState
from ledger.store import ContentStore
from ledger.writing import Moved
from moderation.clock import Clock
from moderation.decision import Decision
from moderation.errors import TemporaryError, TidegateError
from moderation.listing import Submission
from moderation.serving_rules import ServingRules
from moderation.settings import Settings
from serving.gateway.breaker import Breaker, CircuitOpen

_LOG = logging.getLogger(__name__)

SPILLED: Final = Counter(
    "tidegate_spilled_total",
    "Events and blobs that were spilled, by what and why.",
    ["what", "reason"],
)
WAITING: Final = Gauge("tidegate_spill_waiting", "Events and blobs that are spilled.", ["what"])
SPILL_BYTES: Final = Gauge("tidegate_spill_bytes", "Bytes of the files of the spill.")
QUARANTINED: Final = Gauge(
    "tidegate_spill_quarantined", "Frames of the spill that are kept aside for a person."
)
DRAINED: Final = Counter(
    "tidegate_drained_total", "Frames of the spill by what became of them.", ["outcome"]
)

LEDGER_SPILLED: Final = "ledger: spilled"
CONTENT_SPILLED: Final = "content: spilled"

# Reads of a ledger that hangs must not take the threads that seal and decode.
_NUM_THREADS: Final = 4

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Keeper:
    """Keeps and finds events and blobs; its coroutines belong to one event loop.

    Args:
        ledger: waits for a lock no longer than the budget for it.
        store: takes the blobs.
        spill: takes what those two cannot.
        rules: budget, breakers and pace.
        clock: of the breakers.
    """

    def __init__(
        self,
        ledger: SqliteLedger,
        store: ContentStore,
        spill: Spill,
        rules: ServingRules,
        clock: Clock,
    ) -> None:
        self.ledger, self.store, self._spill = ledger, store, spill
        self._drainer = Drainer(spill, ledger, store, _new_trace_id)
        self._budget_s = rules.budgets.ledger_ms / 1e3
        self.retry_s = rules.spill.retry_s
        """Seconds between two tries to drain."""

        self._writes = Breaker("ledger", rules.breakers.ledger, clock)
        self._reads = Breaker("ledger reads", rules.breakers.ledger, clock)
        self._group: GroupWriter[Sequence[Event]] = GroupWriter("ledger", ledger.append_each)
        self._spill_group: GroupWriter[Entry] = GroupWriter("spill", spill.write_each)
        self._puts = Breaker("content store", rules.breakers.ledger, clock)
        self._readers = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="ledger-reads")
        self._putters = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="content")
        self._sealers = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="spill")
        self._stopped_by: str | None = None

    @classmethod
    def of(cls, config: Settings, rules: ServingRules, clock: Clock) -> "Keeper":
        """Return the keeper of a home; it begins even where the ledger cannot be opened now.

        Raises:
            KeysLost: if what is kept is sealed under a key that is neither there nor destroyed.
        """
        budget_s = rules.budgets.ledger_ms / 1e3
        ledger = SqliteLedger(config.home / "ledger.sqlite", busy_s=budget_s, may_be_late=True)
        store = ContentStore(config.home / "content", durable=True)
        ring = KeyRing(config.home / FILE_NAME, busy_s=budget_s)
        folder = config.spill_folder or config.home / "spill"
        return cls(ledger, store, Spill(folder, ring, rules.spill.max_bytes), rules, clock)

    async def append(self, events: Sequence[Event], *, to_spill: bool = False) -> tuple[str, ...]:
        """Keep all events or none, durably, and return what a Decision has to say about it.

        Decisions that are spilled say so themselves.

        Args:
            events: of one upload.
            to_spill: whether the ledger is known not to answer.

        Raises:
            LedgerConflict: if an event id is taken by another content.
            TraceTaken: if a decision's trace id belongs to another decision.
            TemporaryError: if the spill cannot take them either; nothing was accepted.
        """
        if to_spill:
            reason = "not readable"
        elif any(self._spill.holds(event.submission_id) for event in events):
            reason = "behind its submission"
        else:
            try:
                with self._writes.call():
                    async with asyncio.timeout(self._budget_s):
                        await asyncio.wrap_future(self._group.submit(events))
            except CircuitOpen:
                reason = "left alone"
            except TimeoutError:
                reason = "timeout"
            except TemporaryError as error:
                _LOG.error("the ledger cannot be written", extra={"reason": str(error)})
                reason = "error"
            else:
                return ()
        rows = await self._run(self._sealers, self._spill.seal, map(_said, events))
        await asyncio.wrap_future(self._spill_group.submit(rows))
        SPILLED.labels("event", reason).inc(len(events))
        self._gauge()
        return (LEDGER_SPILLED,)

    async def keep(self, blobs: Sequence[bytes], seller_id: str | None) -> None:
        """Keep the inputs of one upload: in the content store or, where that fails or takes long, in the spill.

        Raises:
            TemporaryError: if the spill cannot take them either; nothing was accepted.
        """
        try:
            with self._puts.call():
                async with asyncio.timeout(self._budget_s * len(blobs)):
                    await self._run(self._putters, self._put, blobs, seller_id)
        except CircuitOpen:
            reason = "left alone"
        except TimeoutError:
            reason = "timeout"
        except TemporaryError as error:
            _LOG.error("the content store cannot be written", extra={"reason": str(error)})
            reason = "error"
        else:
            return
        await self._run(self._sealers, self._spill_blobs, blobs, seller_id, reason)

    def _put(self, blobs: Sequence[bytes], seller_id: str | None) -> None:
        for data in blobs:
            self.store.put(data, seller_id)

    def _spill_blobs(self, blobs: Sequence[bytes], seller_id: str | None, reason: str) -> None:
        for data in blobs:
            blob = self._spill.seal_blob(data, seller_id)
            if not self._spill.holds_copy(blob):
                self._spill_group.write(blob)
                SPILLED.labels("blob", reason).inc()

    def said_of(self, digests: Sequence[str]) -> tuple[str, ...]:
        """Return what a Decision has to say about where its inputs are."""
        return (CONTENT_SPILLED,) if any(map(self._spill.holds_blob, digests)) else ()

    async def get_event(self, event_id: str) -> Event | None:
        """Return an event, or None.

        Raises:
            TemporaryError: if it is not spilled, and the ledger cannot be read in time.
        """
        found = await self._spilled(self._spill.get_event, event_id)
        return found or _event(await self.read(self.ledger.get_event, event_id))

    async def get_submission(self, submission_id: str) -> Submission | None:
        """Return an upload, or None; raises as `get_event` does."""
        event = await self.get_event(f"submission:{submission_id}")
        return to_submission(event) if event else None

    async def get_decision_of(self, submission_id: str) -> Decision | None:
        """Return the decision about a submission, or None; raises as `get_event` does."""
        event = await self.get_event(f"decision:{submission_id}")
        return to_decision(event) if event else None

    async def get_decision(self, trace_id: str) -> Decision | None:
        """Return the decision of a trace, or None; raises as `get_event` does."""
        found = await self._spilled(self._spill.get_decision_of_trace, trace_id)
        return to_decision(found) if found else await self.read(self.ledger.get_decision, trace_id)

    async def is_erased(self, event_id: str) -> bool:
        """Return whether there was an event of this id, of a seller that was erased; raises as `get_event` does."""
        if await self._spilled(self._spill.is_erased, event_id):
            return True
        return await self.read(self.ledger.is_erased, event_id)

    async def state(self) -> dict[str, str]:
        """Return how the ledger and the spill are, `ok` where all is well."""
        try:
            await self.read(self.ledger.last_sequence)
            is_open = self._writes.state() == "open"
            ledger = "left alone; events are spilled" if is_open else "ok"
        except TemporaryError as error:
            ledger = error.told
        return {"ledger": ledger, "spill": self._stopped_by or _text(self._gauge())}

    def breakers(self) -> dict[str, str]:
        """Return the circuits of the ledger, those of writes and reads apart."""
        return {"ledger": self._writes.state(), "ledger reads": self._reads.state()}

    def spilled(self) -> SpillState:
        """Return what waits to be moved; reads no disk."""
        return self._spill.state()

    async def can_keep(self) -> bool:
        """Return whether an upload could be kept now, in the ledger or in the spill."""
        with suppress(TemporaryError):
            if self._writes.state() != "open":
                await self.read(self.ledger.last_sequence)
                return True
        return await self._run(self._sealers, self._spill.has_room)

    async def drain(self) -> None:
        """Move what is spilled to where it belongs, as far as possible; never an error.

        What stops it is said by `state`, and tried again.
        """
        try:
            await self._run(self._sealers, self._drainer.drain, _count)
            self._stopped_by = None
        except LedgerUnavailable:
            self._stopped_by = None  # the reason why things are spilled
        except TidegateError as error:
            _LOG.error("the spill cannot be moved", extra={"reason": str(error)})
            told = (
                error.told if isinstance(error, TemporaryError) else "a person has to; see the log"
            )
            self._stopped_by = f"cannot be moved: {told}"
        self._gauge()

    def close(self) -> None:
        """Write what was begun, and give back threads and files."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._putters.shutdown(wait=False, cancel_futures=True)
        self._sealers.shutdown(wait=True)
        self._group.close()
        self._spill_group.close()
        self._spill.close()

    async def _spilled(self, function: Callable[[str], _T], name: str) -> _T | None:
        # Not by the threads of reads, which a ledger that hangs takes.
        return await self._run(self._sealers, function, name) if self._spill.is_waiting() else None

    async def read(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return `function(...)`, which reads the ledger, if it comes within the ledger's budget.

        Raises:
            TemporaryError: if it does not, or the ledger is left alone for now.
        """
        with self._reads.call():
            try:
                async with asyncio.timeout(self._budget_s):
                    return await self._run(self._readers, function, *args, **kwargs)
            except TimeoutError as error:
                raise LedgerUnavailable(
                    f"the ledger gave no answer in {self._budget_s * 1e3:.0f} ms; send it again"
                ) from error

    async def _run(
        self,
        executor: ThreadPoolExecutor,
        function: Callable[_P, _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(executor, lambda: function(*args, **kwargs))

    def _gauge(self) -> SpillState:
        state = self._spill.state()
        WAITING.labels("event").set(state.events)
        WAITING.labels("blob").set(state.blobs)
        SPILL_BYTES.set(state.num_bytes)
        QUARANTINED.set(state.quarantined)
        return state


def _new_trace_id() -> str:
    return secrets.token_hex(16)


def _said(event: Event) -> Event:
    """Return an event as it is spilled: a decision says so."""
    if event.kind is not EventKind.DECISION:
        return event
    said = [*event.payload["degraded"], LEDGER_SPILLED]
    return replace(event, payload=event.payload | {"degraded": said})


def _event(stored: StoredEvent | None) -> Event | None:
    return stored.event if stored else None


def _count(outcome: str, number: int) -> None:
    DRAINED.labels(outcome).inc(number)
    if outcome == Moved.CONFLICT:
        _LOG.error("spilled frames contradict the ledger and are kept aside", extra={"num": number})


def _text(state: SpillState) -> str:
    said = []
    if state.events or state.blobs:
        said.append(f"{state.events} events and {state.blobs} blobs wait to be moved")
    if state.quarantined:
        said.append(f"{state.quarantined} frames are kept aside; look at them")
    return "; ".join(said) or "ok"
