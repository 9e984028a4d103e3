"""Explanations for reviewers: a decision's inputs go to the explainer, on request and off every answer's way."""

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import httpx
import orjson
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import Counter
from pydantic import ValidationError

from ledger.recorded import answer_of
from ledger.store import ContentMissing, ContentStore
from moderation import tracing
from moderation.decision import Attempt, Decision
from moderation.errors import TemporaryError
from moderation.explanation import Explanation
from serving.errors import BadRequest, NotFound, NotOffered
from serving.gateway.auth import SEES_EVIDENCE, Callers, require
from serving.gateway.gate import UploadGate
from serving.openinference import MODEL_NAME

ASKED: Final = Counter(
    "tidegate_explanations_total",
    "Explanations that reviewers asked for, by their end.",
    ["outcome"],
)

_MAX_BYTES: Final = 64 * 2**20
_MAX_AT_ONCE: Final = 4
"""Each holds the images of an upload, in base64 too."""


class ExplainerUnavailable(TemporaryError):
    """The explainer gave no usable answer; ask again later. Decisions do not depend on it."""


class InputsWaiting(TemporaryError):
    """What a decision was taken on lies in the spill; ask again once it was moved to the content store."""


class ContentUnavailable(TemporaryError):
    """What a decision was taken on cannot be read now; ask again later."""


@dataclass
class ExplainerClient:
    """The explainer of one release.

    Args:
        url: `http://host:port`; None where none is run.
        timeout_s: until an explanation is given up.
    """

    url: str | None
    timeout_s: float
    _client: httpx.AsyncClient | None = field(default=None, init=False)
    _asked: int = field(default=0, init=False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Hold one of the few explanations that are made at once within the block.

        Raises:
            ExplainerUnavailable: if there are enough of them.
        """
        if self._asked >= _MAX_AT_ONCE:
            raise ExplainerUnavailable(
                f"{self._asked} explanations are being made already; ask again", delay_s=5.0
            )
        self._asked += 1
        try:
            yield
        finally:
            self._asked -= 1

    async def ask(self, body: Mapping[str, Any]) -> Explanation:
        """Return the explanation of one listing.

        Raises:
            NotOffered: if no explainer is set, or it refuses the listing.
            ExplainerUnavailable: if it does not answer in time, or answers nonsense.
        """
        if self.url is None:
            raise NotOffered(
                "no explainer is set here; start one with `tidegate serve --explainer`, or name it by "
                "TIDEGATE__EXPLAINER_URL"
            )
        if self._client is None:
            self._client = httpx.AsyncClient(trust_env=False, timeout=self.timeout_s)
        current = tracing.traceparent()
        headers = {"content-type": "application/json"}
        headers |= {tracing.TRACEPARENT: current} if current else {}
        try:
            response = await self._client.post(
                f"{self.url}/v2/models/{MODEL_NAME}/explain",
                content=orjson.dumps(body),
                headers=headers,
            )
        except httpx.HTTPError as error:
            raise ExplainerUnavailable(f"no answer: {type(error).__name__}", delay_s=5.0) from error
        if response.status_code == httpx.codes.BAD_REQUEST:
            raise NotOffered(f"the explainer refuses the listing: {response.text[:300]}")
        if response.status_code != httpx.codes.OK or len(response.content) > _MAX_BYTES:
            raise ExplainerUnavailable(f"it answered {response.status_code}", delay_s=5.0)
        try:
            return Explanation.model_validate_json(response.content)
        except ValidationError as error:
            raise ExplainerUnavailable("its answer is no explanation", delay_s=5.0) from error

    async def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            await self._client.aclose()


def add_explanations(
    app: FastAPI,
    gate: UploadGate,
    callers: Callers,
    client: ExplainerClient,
    responses: dict[int | str, dict[str, Any]],
) -> None:
    """Add the route of explanations.

    Args:
        app: gets the route.
        gate: holds decisions and their inputs.
        callers: who may call; reviewers and admins get an explanation.
        client: asks the explainer.
        responses: error answers, for the API's description.
    """

    @app.get(
        "/v1/decisions/{trace_id}/explanation", response_model=Explanation, responses=responses
    )
    async def explanation(
        trace_id: str, request: Request, policy: str | None = None
    ) -> JSONResponse:
        """Say why a recorded decision scored as it did; needs the role reviewer or admin.

        Without `policy`, the one with the highest score.
        """
        require(callers.authenticate(request.headers.get("authorization")), SEES_EVIDENCE)
        try:
            with tracing.continued(request.headers.get(tracing.TRACEPARENT)):
                found = await explain(gate, client, trace_id, policy)
        except Exception as error:
            ASKED.labels(type(error).__name__).inc()
            raise
        ASKED.labels("ok").inc()
        return JSONResponse(found.model_dump(mode="json"), headers={"Cache-Control": "no-store"})


async def explain(
    gate: UploadGate, client: ExplainerClient, trace_id: str, policy: str | None
) -> Explanation:
    """Return why a recorded decision scored as it did.

    Raises:
        NotFound: if there is no such decision, no score in it, or its inputs are gone.
        InputsWaiting: if its inputs are spilled.
        TemporaryError: if the ledger or the content store cannot be read in time.
        NotOffered: if no explainer runs, or it holds another bundle than the one that decided.
        ExplainerUnavailable: if it does not answer, or is asked enough already.
    """
    decision = await gate.keeper.get_decision(trace_id)
    if decision is None:
        raise NotFound(f"no decision has the trace id {trace_id[:64]}")
    answer = _answer(decision)
    if client.url is None:
        return await client.ask({})  # says how to start one
    asked = _policy(answer, policy)
    with client.turn():
        inputs = await _inputs(gate, decision, client.timeout_s)
        found = await client.ask({"policy": asked, **inputs})
    if found.bundle != answer.release:
        raise NotOffered(
            f"the explainer holds bundle {found.bundle[:12]}, the decision was taken by {str(answer.release)[:12]}; "
            "start the explainer of that bundle"
        )
    return found


def _answer(decision: Decision) -> Attempt:
    answer = answer_of(decision)
    if answer is not None:
        return answer
    if decision.decided_by == "stage_1":
        raise NotFound(
            "stage 1 decided, no model was asked, so there is no score to explain; what stage 1 said is in the "
            "decision's evidence"
        )
    raise NotFound("no model answered this decision, so there is no score to explain")


def _policy(answer: Attempt, policy: str | None) -> str:
    scores = answer.scores
    if policy is None:
        return max(scores, key=lambda score: score.probability).policy
    if policy not in {score.policy for score in scores}:
        raise BadRequest(f"policy: send one of {', '.join(score.policy for score in scores)}")
    return policy


async def _inputs(gate: UploadGate, decision: Decision, timeout_s: float) -> dict[str, Any]:
    """Return what the predictor read, out of the store; what waits in the spill is asked for again later."""
    # Asked first: what is moved while the store is read was waiting before, and is no reason to call it gone.
    is_waiting = bool(gate.keeper.said_of(tuple(decision.input_digests.values())))
    try:
        read = partial(_stored, gate.store, decision)
        return await gate.run_aside(gate.for_reviewers, timeout_s, read)
    except TimeoutError as error:
        raise ContentUnavailable(
            f"the content store gave no answer in {timeout_s:g} s; ask again", delay_s=5.0
        ) from error
    except (KeyError, ContentMissing) as error:
        if is_waiting:
            raise InputsWaiting(
                "what this decision was taken on waits in the spill until the content store takes it; ask again",
                delay_s=gate.keeper.retry_s,
            ) from error
        raise NotFound(
            "what this decision was taken on is gone: erased, or older than it is kept"
        ) from error


def _stored(store: ContentStore, decision: Decision) -> dict[str, Any]:
    """Return what the predictor read: the listing's text, its images in order, and the features that it had."""
    digests = decision.input_digests
    names = [f"image.{k}" for k in range(sum(name.startswith("image.") for name in digests))]
    listing = orjson.loads(store.get(digests["listing"]))
    images = [base64.b64encode(store.get(digests[name])).decode() for name in names]
    known = {one.name: one.value for one in decision.features if one.value is not None}
    return {
        "title": listing.get("title", ""),
        "description": listing.get("description", ""),
        "images": images,
        "behaviour": known,
    }
