"""The upload gate itself: what happens to one upload between the HTTP request and its answer."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Final, ParamSpec, TypeVar

from prometheus_client import Counter

from ledger.events import Event, from_decision, from_review_task, from_submission
from ledger.ledger import LedgerConflict, SqliteLedger, TraceTaken
from ledger.store import ContentStore
from moderation import tracing
from moderation.clock import Clock
from moderation.decision import Decision, conclude
from moderation.errors import ModelNotReady, TemporaryError, TidegateError
from moderation.listing import Submission
from moderation.policy import OnFailure, PolicyFile
from moderation.prefilter import Incoming, Looked
from moderation.serving_rules import Budgets
from moderation.stage_1 import StageSignal
from moderation.telemetry import span
from serving.client import PredictorPool, Query
from serving.deadline import Deadline, DeadlineSpent
from serving.errors import PredictorTimeout, SubmissionConflict
from serving.gateway.behaviour import Behaviour, BudgetedBehaviour
from serving.gateway.breaker import Breakers
from serving.gateway.cascade import DECIDED, Cascade
from serving.gateway.intake import Intake
from serving.gateway.judged import Asked, Judged, repeated
from serving.gateway.keeping import Keeper
from serving.gateway.record import answered, degradations, failed, review_task, versions_of
from serving.gateway.requests import Upload
from serving.gateway.safeguards import Safeguards
from serving.routing import Choice, Router

_LOG = logging.getLogger(__name__)

DECISIONS: Final = Counter(
    "tidegate_decisions_total", "Decisions by what was decided and how.", ["tier", "arm", "status"]
)

# Threads that decode and look up: they may not hold up the event loop, and nothing that may hang may take them.
_NUM_THREADS: Final = 8
_NUM_BESIDE: Final = 4
"""Of the loops that follow the routing, the ledger, the banks and the disk: one that hangs takes one thread."""

_NUM_ASIDE: Final = 2
"""Of each kind of what staff ask for: a store that hangs may not keep an admin from stopping enforcement."""


_P = ParamSpec("_P")
_T = TypeVar("_T")


def new_hex_id() -> str:
    """Return a fresh id of 32 hexadecimal digits, also a valid W3C trace id."""
    return secrets.token_hex(16)


@dataclass
class UploadGate:
    """Everything that a decision needs; its parts are shared by all requests of a process."""

    keeper: Keeper
    behaviour: BudgetedBehaviour
    router: Router
    policies: PolicyFile
    clock: Clock
    budgets: Budgets
    """What an upload may take, and its stages of it."""

    breakers: Breakers
    """Of the predictors, by URL: a failing candidate leaves the champion alone."""

    cascade: Cascade
    intake: Intake
    """How many uploads are taken in at once."""

    safeguards: Safeguards = field(default_factory=Safeguards)
    is_stop_due: asyncio.Event = field(default_factory=asyncio.Event)
    """Set where enforcement was stopped here, which holds at once, and the ledger has to be told."""

    new_id: Callable[[], str] = new_hex_id
    predictors: PredictorPool = field(default_factory=PredictorPool)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="gate")
    )

    beside: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_BESIDE, thread_name_prefix="beside")
    )

    for_reviewers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_ASIDE, thread_name_prefix="reviewers")
    )

    for_admins: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_ASIDE, thread_name_prefix="admins")
    )

    @property
    def ledger(self) -> SqliteLedger:
        """Where events come to lie in the end."""
        return self.keeper.ledger

    @property
    def store(self) -> ContentStore:
        """Where inputs come to lie in the end."""
        return self.keeper.store

    async def decide(
        self, upload: Upload, trace_id: str, deadline: Deadline
    ) -> tuple[Decision, bool]:
        """Return the decision about an upload, and whether it was recorded before this call.

        The inputs, the submission and the decision are on a disk before it is answered, the two events by one append;
        what the ledger cannot take is in the spill.

        Raises:
            SubmissionConflict: if the submission id was used for another content.
            TemporaryError: if the spill cannot take it either; nothing is accepted then.
        """
        with self.safeguards.traffic.upload():
            return await self._decide(upload, trace_id, deadline)

    async def _decide(
        self, upload: Upload, trace_id: str, deadline: Deadline
    ) -> tuple[Decision, bool]:
        before, is_known = await self._look_up(upload)
        submission, is_recorded = self._submission(upload, before)
        if is_recorded and (decided := await self._recorded_decision(submission)):
            return decided, True
        choice = self._choose(submission)
        keeping = asyncio.ensure_future(self._keep_inputs(upload))
        try:
            judged = await self._judge(upload, submission, choice, deadline)
        finally:
            await keeping
        decision = self._decision(submission, judged, trace_id, upload.digests)
        if choice is not None:
            self.cascade.keep(decision, submission, choice, self.policies)
        with span("gateway.record", self.clock):
            decision, is_recorded = await self._record(
                self.safeguards.settle(decision),
                submission,
                is_new=not is_recorded,
                to_spill=not is_known,
            )
        if not is_recorded:
            seller_id = submission.listing.seller_id
            if self.safeguards.decided(decision, judged.asked, seller_id):
                self.is_stop_due.set()
        return decision, is_recorded

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return `function(...)`, run off the event loop."""
        loop = asyncio.get_running_loop()
        context = copy_context()
        return await loop.run_in_executor(
            self.executor, lambda: context.run(function, *args, **kwargs)
        )

    async def run_beside(self, function: Callable[[], _T]) -> _T:
        """Return `function()`, which may wait for a disk for ever; no upload waits for it."""
        return await asyncio.get_running_loop().run_in_executor(self.beside, function)

    async def run_aside(
        self, threads: ThreadPoolExecutor, timeout_s: float, function: Callable[[], _T]
    ) -> _T:
        """Return `function()`, asked by a reviewer or an admin; it may hang, and no upload waits for it.

        Raises:
            TimeoutError: if it takes longer than `timeout_s`, its turn included. It may still be done later.
        """
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().run_in_executor(threads, function)

    async def close(self) -> None:
        """Close connections and threads; what the ledger does not know of yet is recorded, if that can be in time."""
        self.behaviour.close()
        await self.cascade.behaviour.close()
        await self.predictors.close()
        await self.safeguards.close()
        if self.is_stop_due.is_set() or self.safeguards.has_answers:
            self.is_stop_due.clear()
            with suppress(TimeoutError, TidegateError):
                async with asyncio.timeout(self.budgets.ledger_ms / 1e3):
                    await self.run_beside(partial(self.safeguards.step, self.ledger))
        for threads in (self.executor, self.beside, self.for_reviewers, self.for_admins):
            threads.shutdown(wait=False, cancel_futures=True)
        self.keeper.close()

    async def _keep_inputs(self, upload: Upload) -> None:
        with span("gateway.keep_inputs", self.clock):
            await self.keeper.keep(tuple(upload.inputs().values()), upload.listing.seller_id)

    async def _look_up(self, upload: Upload) -> tuple[Submission | None, bool]:
        """Return what was recorded under an upload's id, and whether that could be found out.

        Where it could not, the upload is spilled: what it repeats shows when that is moved to the ledger.
        """
        if not upload.submission_id:
            return None, True
        try:
            if await self.keeper.is_erased(f"submission:{upload.submission_id}"):
                raise SubmissionConflict(
                    f"submission_id {upload.submission_id} was used by a seller that was erased; send a new id"
                )
            return await self.keeper.get_submission(upload.submission_id), True
        except TemporaryError as error:
            _LOG.error("the ledger cannot be read", extra={"reason": str(error)})
            return None, False

    def _submission(self, upload: Upload, before: Submission | None) -> tuple[Submission, bool]:
        """Return the submission of an upload, and whether it was recorded already."""
        submission = Submission(
            submission_id=upload.submission_id or self.new_id(),
            listing=upload.listing,
            image_digests=upload.image_digests,
            submitted_at=self.clock.now(),
        )
        return (_same(before, submission), True) if before else (submission, False)

    async def _recorded_decision(self, submission: Submission) -> Decision | None:
        return await self.keeper.get_decision_of(submission.submission_id)

    def _choose(self, submission: Submission) -> Choice | None:
        try:
            return self.router.choose(sticky_key(submission))
        except TidegateError as error:
            _LOG.error("no release to ask", extra={"reason": str(error)})
            return None

    async def _judge(
        self, upload: Upload, submission: Submission, choice: Choice | None, deadline: Deadline
    ) -> Judged:
        """Return what an earlier answer says that holds, or stage 1 and, where that does not decide, a release."""
        policies = self.policies
        with span("gateway.seen", self.clock):
            seen = await self.cascade.seen(submission, choice, policies, self.keeper.read)
        if seen.earlier is not None:
            return repeated(seen.signal, seen.earlier, choice)
        if choice is not None:
            fetch = partial(
                self.predictors.get(choice.url).prefilter, timeout_s=self.budgets.total_ms / 1e3
            )
            self.cascade.behaviour.prepare(choice.release, fetch)
        (behaviour, said), looked = await asyncio.gather(
            self._judge_behaviour(submission, choice, deadline), self._look(upload, submission)
        )
        stage_1 = looked.concluded(policies, [seen.signal, said])
        on_failure = policies.on_failure_in(submission.listing.category)
        asked = None
        if not stage_1.is_decisive:
            with span("gateway.predictor", self.clock):
                asked = await self._ask(_query(upload, behaviour), choice, on_failure, deadline)
        attempts = (asked.attempt,) if asked else ()
        return Judged(
            choice,
            stage_1,
            attempts,
            behaviour.feature_values(),
            behaviour.through,
            versions_of(attempts, stage_1, policies),
            (
                *degradations(attempts, stage_1, behaviour, policies, on_failure),
                *(asked.degraded if asked else ()),
            ),
            asked=asked,
        )

    async def _judge_behaviour(
        self, submission: Submission, choice: Choice | None, deadline: Deadline
    ) -> tuple[Behaviour, StageSignal]:
        """Return the seller's behaviour, and whether it clears the upload."""
        with span("gateway.behaviour", self.clock):
            behaviour = await self.behaviour.read(submission, deadline)
            # A thread costs twice what the trees do.
            said = self.cascade.judge(choice, behaviour, submission.submission_id)
        return behaviour, said

    async def _look(self, upload: Upload, submission: Submission) -> Looked:
        """Return what the stages say that need no behaviour."""
        listing = upload.listing
        incoming = Incoming(
            submission.submission_id, listing.title, listing.description, upload.views
        )
        with span("gateway.stage_1", self.clock):
            return await self.run(self.cascade.look, incoming)

    async def _ask(
        self, query: Query, choice: Choice | None, on_failure: OnFailure, deadline: Deadline
    ) -> Asked:
        """Return the chosen release's attempt; a failure is an attempt, not an error."""
        begin = self.clock.monotonic()
        try:
            if choice is None:
                raise ModelNotReady("no routing table yet; release a bundle first")
            tracing.note(arm=choice.arm, release=choice.release)
            timeout_s = _predictor_s(deadline)
            is_fair = deadline.is_fair_to_predictor(timeout_s)
            breaker = self.breakers.of(choice.url)
            with breaker.call(is_fair=is_fair), self.safeguards.traffic.asking(choice.arm):
                answer = await self.predictors.get(choice.url).ask(
                    query, bundle=choice.release, timeout_s=timeout_s
                )
        except Exception as error:
            # The edge where nothing may stop an upload: whatever fails here is recorded and answered by policy.
            if not isinstance(error, TidegateError):
                _LOG.exception("the predictor's client failed")
            attempt = failed(
                f"{type(error).__name__}: {error}",
                on_failure,
                release=choice.release if choice else None,
                is_timeout=isinstance(error, PredictorTimeout),
                latency_ms=(self.clock.monotonic() - begin) * 1e3,
            )
            said = (f"deadline: {error}",) if isinstance(error, DeadlineSpent) else ()
            return Asked(query, attempt, degraded=said)
        attempt = answered(
            answer,
            self.policies,
            caps=choice.caps,
            now=self.clock.now(),
            latency_ms=(self.clock.monotonic() - begin) * 1e3,
        )
        return Asked(query, attempt, answer.release.shares)

    def _decision(
        self, submission: Submission, judged: Judged, trace_id: str, digests: dict[str, str]
    ) -> Decision:
        choice, policies = judged.choice, self.policies
        on_failure = policies.on_failure_in(submission.listing.category)
        decided_by, tier, codes = conclude(judged.attempts, judged.stage_1, policies, on_failure)
        return Decision(
            decision_id=self.new_id(),
            trace_id=trace_id,
            submission_id=submission.submission_id,
            tier=tier.label,
            reason_codes=codes,
            attempts=judged.attempts,
            decided_by="duplicate" if judged.duplicate_of else decided_by,
            stage_1=judged.stage_1,
            duplicate_of=judged.duplicate_of,
            arm=choice.arm if choice else "champion",
            weight=choice.weight if choice else 1.0,
            sticky_key=sticky_key(submission),
            routing_revision=choice.revision if choice else 0,
            input_digests=digests,
            features=judged.features,
            features_through=judged.features_through,
            versions=judged.versions,
            on_failure=on_failure if decided_by == "failure_policy" else None,
            degraded=(*judged.degraded, *self.keeper.said_of(tuple(digests.values()))),
            submitted_at=submission.submitted_at,
            decided_at=self.clock.now(),
        )

    async def _record(
        self, decision: Decision, submission: Submission, *, is_new: bool, to_spill: bool
    ) -> tuple[Decision, bool]:
        """Append the submission, if it is new, and its decision with the review that it opens, all by one append.

        Where another request was faster with the same submission, its decision wins.
        """
        while True:
            decision = decision.model_copy(update={"recorded_at": self.clock.now()})
            events = self._events(decision, submission, is_new=is_new)
            try:
                said = await self.keeper.append(events, to_spill=to_spill)
            except TraceTaken:
                # One trace of a caller may hold many uploads; a decision is found by a trace of its own.
                decision = decision.model_copy(update={"trace_id": self.new_id()})
            except LedgerConflict:
                before = await self.keeper.get_submission(submission.submission_id)
                if before is None:
                    raise
                submission = _same(before, submission)
                if recorded := await self._recorded_decision(submission):
                    return recorded, True
                if not is_new:
                    raise
                is_new, changes = False, {"submitted_at": submission.submitted_at}
                decision = decision.model_copy(update=changes)
            else:
                _count(decision, submission)
                degraded = (*decision.degraded, *said)
                return decision.model_copy(update={"degraded": degraded}), False

    def _events(self, decision: Decision, submission: Submission, *, is_new: bool) -> list[Event]:
        at, seller_id = self.clock.now(), submission.listing.seller_id
        events = [from_submission(submission, recorded_at=at)] if is_new else []
        events.append(from_decision(decision, recorded_at=at, seller_id=seller_id))
        if task := review_task(decision, decision.reason_codes):
            events.append(from_review_task(task, recorded_at=at, seller_id=seller_id))
        return events + self.safeguards.events(decision, at, seller_id)


def _query(upload: Upload, behaviour: Behaviour) -> Query:
    listing = upload.listing
    return Query(
        listing.title, listing.description, upload.images, behaviour.values_F, behaviour.status_F
    )


def _predictor_s(deadline: Deadline) -> float:
    left_s = deadline.predictor_s()
    if left_s <= 0:
        raise DeadlineSpent(
            f"the upload's {deadline.total_ms} ms were over before the predictor was asked"
        )
    return left_s


def sticky_key(submission: Submission) -> str:
    """Return what keeps an upload on one arm: its seller, or its listing where there is no seller."""
    return submission.listing.seller_id or submission.listing.listing_id


def _same(before: Submission, submission: Submission) -> Submission:
    """Return the recorded submission if the content is the same."""
    is_same = (before.listing, before.image_digests) == (
        submission.listing,
        submission.image_digests,
    )
    if not is_same:
        raise SubmissionConflict(
            f"submission_id {submission.submission_id} was used for another content; send a new id"
        )
    return before


def _count(decision: Decision, submission: Submission) -> None:
    attempt = next(iter(decision.attempts), None)
    status = attempt.status if attempt else "not_asked"
    DECISIONS.labels(decision.tier, decision.arm, status).inc()
    DECIDED.labels(decision.decided_by, decision.tier).inc()
    _LOG.info(
        "decided",
        extra={
            "trace_id": decision.trace_id,
            "listing_id": submission.listing.listing_id,
            "release": decision.versions.bundle,
            "policy_version": decision.versions.policy,
            "tier": decision.tier,
            "decided_by": decision.decided_by,
            "latency_ms": round(attempt.latency_ms, 3) if attempt else None,
        },
    )
