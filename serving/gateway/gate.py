"""The upload gate itself: what happens to one upload between the HTTP request and its answer."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

from prometheus_client import Counter

from ledger.events import Event, from_decision, from_review_task, from_submission
from ledger.ledger import LedgerConflict, SqliteLedger, TraceTaken
from ledger.store import ContentStore
from moderation.clock import Clock
from moderation.decision import Attempt, Decision, Versions
from moderation.errors import TemporaryError, TidegateError
from moderation.listing import Listing, Submission
from moderation.policy import PolicyFile
from moderation.telemetry import span
from serving.client import PredictorPool, Query
from serving.errors import PredictorTimeout, SubmissionConflict
from serving.gateway.behaviour import Behaviour, BudgetedBehaviour
from serving.gateway.breaker import Breakers
from serving.gateway.keeping import Keeper
from serving.gateway.record import answered, degradations, failed, review_task
from serving.gateway.requests import Upload
from serving.gateway.safeguards import Safeguards
from serving.routing import Choice, Router

_LOG = logging.getLogger(__name__)

DECISIONS: Final = Counter(
    "tidegate_decisions_total", "Decisions by what was decided and how.", ["tier", "arm", "status"]
)

# Threads for SQLite, the store and image checks: none of them may hold up the event loop.
_NUM_THREADS: Final = 8


@dataclass(frozen=True)
class _Outcome:
    """What asking for a model's answer came to."""

    choice: Choice | None
    attempt: Attempt
    codes: tuple[str, ...]
    expected: Mapping[str, float] = field(default_factory=dict)
    """Policy -> share of listings at block or stronger that calibration expected of the bundle."""


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
    predictor_timeout_s: float
    breakers: Breakers
    """Of the predictors, by URL: a failing candidate leaves the champion alone."""

    safeguards: Safeguards = field(default_factory=Safeguards)
    new_id: Callable[[], str] = new_hex_id
    predictors: PredictorPool = field(default_factory=PredictorPool)
    executor: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="gate")
    )

    @property
    def ledger(self) -> SqliteLedger:
        """Where events come to lie in the end."""
        return self.keeper.ledger

    @property
    def store(self) -> ContentStore:
        """Where inputs come to lie in the end."""
        return self.keeper.store

    async def decide(self, upload: Upload, trace_id: str) -> tuple[Decision, bool]:
        """Return the decision about an upload, and whether it was recorded before this call.

        The submission is in the ledger before a model is asked, and the decision before it is answered; what the ledger
        cannot take is in the spill.

        Raises:
            SubmissionConflict: if the submission id was used for another content.
            TemporaryError: if the spill cannot take it either; nothing is accepted then.
        """
        with self.safeguards.traffic.upload():
            return await self._decide(upload, trace_id)

    async def _decide(self, upload: Upload, trace_id: str) -> tuple[Decision, bool]:
        with span("gateway.record_submission", self.clock):
            before, is_known = await self._look_up(upload)
            digests = await self.run(self._keep_inputs, upload)
            submission, recorded = self._submission(upload, digests, before)
            if recorded and (decided := await self._recorded_decision(submission)):
                return decided, True
        with span("gateway.behaviour", self.clock):
            behaviour = await self.behaviour.read(submission)
        if not recorded:
            submission = await self._record(submission, to_spill=not is_known)
        query = _query(upload, behaviour)
        with span("gateway.predictor", self.clock):
            outcome = await self._ask(query, submission)
        decision = self._decision(submission, behaviour, outcome, trace_id, digests)
        with span("gateway.record_decision", self.clock):
            decision, recorded = await self._record_decision(
                self.safeguards.settle(decision), submission
            )
        if not recorded:
            seller_id = submission.listing.seller_id
            if self.safeguards.decided(decision, query, outcome.expected, seller_id):
                await self.run(self.safeguards.step, self.ledger)
        return decision, recorded

    async def run(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return `function(...)`, run off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """Close connections and threads."""
        self.behaviour.close()
        await self.predictors.close()
        await self.safeguards.close(self.ledger)
        self.executor.shutdown(wait=False)
        self.keeper.close()

    def _keep_inputs(self, upload: Upload) -> dict[str, str]:
        seller_id, put = upload.listing.seller_id, self.keeper.put
        images = {f"image.{k}": put(data, seller_id) for k, data in enumerate(upload.images)}
        return {"listing": put(listing_bytes(upload.listing), seller_id), **images}

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

    def _submission(
        self, upload: Upload, digests: dict[str, str], before: Submission | None
    ) -> tuple[Submission, bool]:
        """Return the submission of an upload, and whether it was recorded already."""
        submission = Submission(
            submission_id=upload.submission_id or self.new_id(),
            listing=upload.listing,
            image_digests=tuple(digests[f"image.{k}"] for k in range(len(upload.images))),
            submitted_at=self.clock.now(),
        )
        return (_same(before, submission), True) if before else (submission, False)

    async def _record(self, submission: Submission, *, to_spill: bool) -> Submission:
        """Append the submission; where another request was faster with the same one, return that."""
        event = from_submission(submission, recorded_at=self.clock.now())
        try:
            await self.keeper.append([event], to_spill=to_spill)
        except LedgerConflict:
            before = await self.keeper.get_submission(submission.submission_id)
            return _same(before or submission, submission)
        return submission

    async def _recorded_decision(self, submission: Submission) -> Decision | None:
        return await self.keeper.get_decision_of(submission.submission_id)

    async def _ask(self, query: Query, submission: Submission) -> _Outcome:
        """Return the chosen release's attempt and the reason codes; a failure is an attempt, not an error."""
        begin = self.clock.monotonic()
        choice: Choice | None = None
        try:
            choice = self.router.choose(sticky_key(submission))
            with self.breakers.of(choice.url).call(), self.safeguards.traffic.asking(choice.arm):
                answer = await self.predictors.get(choice.url).ask(
                    query, bundle=choice.release, timeout_s=self.predictor_timeout_s
                )
        except Exception as error:
            # The edge where nothing may stop an upload: whatever fails here is recorded and answered by policy.
            if not isinstance(error, TidegateError):
                _LOG.exception("the predictor's client failed")
            attempt, codes = failed(
                f"{type(error).__name__}: {error}",
                self.policies.on_failure_in(submission.listing.category),
                release=choice.release if choice else None,
                is_timeout=isinstance(error, PredictorTimeout),
                latency_ms=(self.clock.monotonic() - begin) * 1e3,
            )
            return _Outcome(choice, attempt, codes)
        attempt, codes = answered(
            answer,
            self.policies,
            caps=choice.caps,
            now=self.clock.now(),
            latency_ms=(self.clock.monotonic() - begin) * 1e3,
        )
        return _Outcome(choice, attempt, codes, answer.release.shares)

    def _decision(
        self,
        submission: Submission,
        behaviour: Behaviour,
        outcome: _Outcome,
        trace_id: str,
        digests: dict[str, str],
    ) -> Decision:
        policies, choice, attempt = self.policies, outcome.choice, outcome.attempt
        no_table = None if choice else "no routing table"
        on_failure = policies.on_failure_in(submission.listing.category)
        return Decision(
            decision_id=self.new_id(),
            trace_id=trace_id,
            submission_id=submission.submission_id,
            tier=attempt.tier,
            reason_codes=outcome.codes,
            attempts=(attempt,),
            arm=choice.arm if choice else "champion",
            weight=choice.weight if choice else 1.0,
            sticky_key=sticky_key(submission),
            routing_revision=choice.revision if choice else 0,
            input_digests=digests,
            features=behaviour.feature_values(),
            features_through=behaviour.through,
            versions=Versions(
                bundle=attempt.release, policy=f"{policies.version}@sha256:{policies.digest}"
            ),
            on_failure=None if attempt.status == "ok" else on_failure,
            degraded=(
                *degradations(attempt, behaviour, policies, no_table, on_failure),
                *self.keeper.said_of(tuple(digests.values())),
            ),
            submitted_at=submission.submitted_at,
            decided_at=self.clock.now(),
        )

    async def _record_decision(
        self, decision: Decision, submission: Submission
    ) -> tuple[Decision, bool]:
        """Append the decision with the review that it opens; another decision of the same submission wins."""
        while True:
            decision = decision.model_copy(update={"recorded_at": self.clock.now()})
            try:
                said = await self.keeper.append(self._events(decision, submission))
            except TraceTaken:
                # One trace of a caller may hold many uploads; a decision is found by a trace of its own.
                decision = decision.model_copy(update={"trace_id": self.new_id()})
            except LedgerConflict:
                before = await self._recorded_decision(submission)
                if before is None:
                    raise
                return before, True
            else:
                _count(decision, submission)
                degraded = (*decision.degraded, *said)
                return decision.model_copy(update={"degraded": degraded}), False

    def _events(self, decision: Decision, submission: Submission) -> list[Event]:
        at, seller_id = self.clock.now(), submission.listing.seller_id
        events = [from_decision(decision, recorded_at=at, seller_id=seller_id)]
        if task := review_task(decision, decision.reason_codes):
            events.append(from_review_task(task, recorded_at=at, seller_id=seller_id))
        return events + self.safeguards.events(decision, at, seller_id)


def _query(upload: Upload, behaviour: Behaviour) -> Query:
    listing = upload.listing
    return Query(
        listing.title, listing.description, upload.images, behaviour.values_F, behaviour.status_F
    )


def listing_bytes(listing: Listing) -> bytes:
    """Return a listing as canonical JSON: what is stored and named by its digest."""
    content = listing.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


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
    attempt = decision.attempts[0]
    DECISIONS.labels(decision.tier, decision.arm, attempt.status).inc()
    _LOG.info(
        "decided",
        extra={
            "trace_id": decision.trace_id,
            "listing_id": submission.listing.listing_id,
            "release": attempt.release,
            "policy_version": decision.versions.policy,
            "tier": decision.tier,
            "latency_ms": round(attempt.latency_ms, 3),
        },
    )
