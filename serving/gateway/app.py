"""The gateway's ASGI app: routes, authentication and errors; what a route does lives beside it."""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from moderation import tracing
from moderation.decision import Decision
from moderation.errors import TidegateError
from moderation.listing import Listing
from moderation.telemetry import request_span, span
from moderation.tracing import TRACEPARENT
from serving.deadline import HEADER as DEADLINE_HEADER
from serving.deadline import Deadline, asked_ms
from serving.errors import BadRequest, NotFound
from serving.gateway.answers import (
    CLIENT_GONE,
    OUR_FAULT,
    OUR_FAULT_MESSAGE,
    DecisionAnswer,
    ErrorAnswer,
    ReversalAnswer,
    TruthAnswer,
    decision_answer,
    error_answer,
)
from serving.gateway.auth import SEES_EVIDENCE, SUBMITS, Callers, require
from serving.gateway.docs import docs_page
from serving.gateway.explanations import ExplainerClient, add_explanations
from serving.gateway.gate import UploadGate
from serving.gateway.loops import for_ever
from serving.gateway.multipart import MEDIA_TYPE
from serving.gateway.quotas import Quotas
from serving.gateway.requests import (
    MAX_TRUTH_BYTES,
    MAX_UPLOAD_BYTES,
    UPLOAD_TYPES,
    DecisionRequest,
    ReversalRequest,
    TruthRequest,
    declared_bytes,
    parse_reversal,
    parse_truth,
    parse_upload,
    read_body,
)
from serving.gateway.safeguards import POLL_S
from serving.gateway.schema import complete_schema, methods_of
from serving.gateway.steering import add_enforcement
from serving.gateway.truth import record_reversal, record_truth

_LOG = logging.getLogger(__name__)

ERRORS: Final = Counter(
    "tidegate_gateway_errors_total", "Requests that the gateway refused or failed.", ["error"]
)

# How often the routing table is looked at when nobody asks: a renewal must not be counted from a late look.
_POLL_S: Final = 0.5
_READY_S: Final = 1.0

_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")


def create_app(
    gate: UploadGate,
    callers: Callers,
    quotas: Quotas | None = None,
    explainer: ExplainerClient | None = None,
) -> FastAPI:
    """Return the app around a gate; it owns the gate and closes it.

    Args:
        gate: decides.
        callers: who may call.
        quotas: how much each may send; without them, as much as it likes.
        explainer: explains scores to reviewers; without one, nobody does.
    """
    explainer = explainer or ExplainerClient(None, timeout_s=1.0)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one) for one in _loops(gate)]
        yield
        for task in tasks:
            task.cancel()
        await explainer.close()
        await gate.close()

    app = FastAPI(
        title="Tidegate gateway",
        version="1",
        description="Judges every listing as it is submitted. Send `Authorization: Bearer <token>`.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _add_decisions(app, gate, callers, quotas or Quotas(math.inf, gate.clock))
    add_explanations(app, gate, callers, explainer, _errors(400, 401, 403, 404, 503))
    _add_truth(app, gate, callers)
    add_enforcement(app, gate, callers)
    _add_operations(app, gate)
    _add_errors(app)
    complete_schema(app, gate.policies.ids)
    return app


def _add_decisions(app: FastAPI, gate: UploadGate, callers: Callers, quotas: Quotas) -> None:
    @app.post(
        "/v1/decisions",
        response_model=DecisionAnswer,
        responses=_errors(400, 401, 403, 408, 409, 413, 415, 429, 503),
        openapi_extra=_upload_body(),
    )
    async def decide(request: Request) -> JSONResponse:
        """Judge one upload of a listing. The decision is recorded before it is answered.

        As multipart/form-data: a part `listing` (JSON), parts `images` (files), a part `submission_id` if there is one.
        """
        caller = callers.authenticate(request.headers.get("authorization"))
        require(caller, SUBMITS)
        total_ms = asked_ms(request.headers.get(DEADLINE_HEADER), gate.budgets)
        quotas.take(caller.name)
        with gate.intake.take(caller.name, declared_bytes(request, MAX_UPLOAD_BYTES)) as come:
            body = await read_body(request, MAX_UPLOAD_BYTES, gate.intake.body_s, UPLOAD_TYPES)
            come()
            decision, was_recorded, headers = await _decided(gate, request, body, total_ms)
        if was_recorded:
            headers["Idempotent-Replay"] = "true"
        return JSONResponse(decision_answer(decision, gate.policies, caller), 200, headers)

    @app.get(
        "/v1/decisions/{trace_id}",
        response_model=DecisionAnswer,
        responses=_errors(400, 401, 404, 503),
    )
    async def get_decision(trace_id: str, request: Request) -> JSONResponse:
        """Return a recorded decision by its trace id; evidence needs the role reviewer or admin."""
        caller = callers.authenticate(request.headers.get("authorization"))
        if not _TRACE_ID.fullmatch(trace_id):
            raise BadRequest("trace_id: send 32 hexadecimal digits in lower case")
        decision = await gate.keeper.get_decision(trace_id)
        if decision is None:
            raise NotFound(f"no decision has the trace id {trace_id}")
        return JSONResponse(decision_answer(decision, gate.policies, caller))


async def _decided(
    gate: UploadGate, request: Request, body: bytes, total_ms: int | None
) -> tuple[Decision, bool, dict[str, str]]:
    """Return the decision about an upload, whether it was recorded before, and the headers of its trace."""
    content_type = request.headers.get("content-type", UPLOAD_TYPES[0])
    deadline = Deadline(gate.budgets, gate.clock, total_ms)
    with request_span("gateway.upload", request.headers.get(TRACEPARENT), gate.clock):
        with span("gateway.parse", gate.clock):
            upload = await gate.run(parse_upload, body, content_type)
        traced = tracing.trace_id() or gate.new_id()
        decision, was_recorded = await gate.decide(upload, traced, deadline)
        _note(decision, traced, len(upload.images))
        return decision, was_recorded, {TRACEPARENT: tracing.traceparent() or ""}


def _add_truth(app: FastAPI, gate: UploadGate, callers: Callers) -> None:
    @app.post(
        "/v1/ground-truth",
        response_model=TruthAnswer,
        responses=_errors(400, 401, 403, 404, 408, 409, 413, 415, 503),
        openapi_extra=_body(TruthRequest),
    )
    async def ground_truth(request: Request) -> TruthAnswer:
        """Record what a reviewer or an appeal established; needs the role reviewer or admin."""
        caller = callers.authenticate(request.headers.get("authorization"))
        require(caller, SEES_EVIDENCE)
        truth = parse_truth(await read_body(request, MAX_TRUTH_BYTES, gate.intake.body_s))
        recorded = await record_truth(gate, truth)
        return TruthAnswer(ground_truth_id=truth.ground_truth_id, recorded=recorded)

    @app.post(
        "/v1/reversals",
        response_model=ReversalAnswer,
        responses=_errors(400, 401, 403, 404, 408, 409, 413, 415, 503),
        openapi_extra=_body(ReversalRequest),
    )
    async def reversal(request: Request) -> ReversalAnswer:
        """Undo an enforcement whole: from then on its submission did not violate; needs the role reviewer or admin."""
        caller = callers.authenticate(request.headers.get("authorization"))
        require(caller, SEES_EVIDENCE)
        asked = parse_reversal(await read_body(request, MAX_TRUTH_BYTES, gate.intake.body_s))
        recorded = await record_reversal(gate, asked, caller.role)
        return ReversalAnswer(reversal_id=asked.reversal_id, recorded=recorded)


def _add_operations(app: FastAPI, gate: UploadGate) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthz() -> dict[str, str]:
        """Say that the process runs."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["operations"], responses={503: {"description": "cannot record"}})
    async def readyz() -> JSONResponse:
        """Say whether uploads can be kept, in the ledger or the spill; what else is missing is told, no more."""
        checks = await gate.keeper.state() | {
            "predictor": await _predictor_state(gate),
            "features": gate.behaviour.last,
            **gate.cascade.state(),
        }
        is_ready = await gate.keeper.can_keep()
        return JSONResponse({"ready": is_ready, "checks": checks}, 200 if is_ready else 503)

    @app.get("/metrics", tags=["operations"], include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(TidegateError)
    async def tidegate_error(_: Request, error: TidegateError) -> JSONResponse:
        ERRORS.labels(type(error).__name__).inc()
        answer = error_answer(error)
        if answer.status_code >= OUR_FAULT:
            reason = f"{type(error).__name__}: {error}"
            _LOG.error("request failed", extra={"reason": reason})
        return answer

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        content = ErrorAnswer(error="HTTPException", message=str(error.detail))
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # Starlette names the methods of the first route of a path alone.
            headers["Allow"] = ", ".join(methods_of(app, request.scope))
        return JSONResponse(content.model_dump(), error.status_code, headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        ERRORS.labels(type(error).__name__).inc()
        return Response(status_code=CLIENT_GONE)  # nobody reads it

    @app.exception_handler(Exception)
    async def our_fault(_: Request, error: Exception) -> JSONResponse:
        ERRORS.labels(type(error).__name__).inc()
        _LOG.error("request failed", exc_info=error)
        content = ErrorAnswer(error="InternalError", message=OUR_FAULT_MESSAGE)
        return JSONResponse(content.model_dump(), OUR_FAULT)


def _note(decision: Decision, traced: str, num_images: int) -> None:
    """Say in the trace what was decided, and under which id where the trace's own was taken by another upload."""
    tracing.note(
        tier=decision.tier,
        arm=decision.arm,
        status=decision.attempts[0].status if decision.attempts else "not_asked",
        num_images=num_images,
        decision_trace_id=decision.trace_id if decision.trace_id != traced else None,
    )


def _loops(gate: UploadGate) -> Iterator[Coroutine[Any, Any, None]]:
    """Yield what goes on in the background, each on a timer of its own: none makes another late."""

    async def follow_routing() -> None:
        await gate.run_beside(gate.router.refresh)

    async def follow_stage_1() -> None:
        await gate.run_beside(gate.cascade.refresh)

    async def watch() -> None:
        await gate.run_beside(partial(gate.safeguards.step, gate.ledger))

    async def beat() -> None:
        await gate.run_beside(gate.safeguards.beat)

    yield for_ever("routing", follow_routing, _POLL_S)
    yield for_ever("stage 1", follow_stage_1, _POLL_S)
    yield for_ever("safeguards", watch, POLL_S, at_once=gate.is_stop_due)
    yield for_ever("heartbeat", beat, POLL_S)
    yield for_ever("spill", gate.keeper.drain, gate.keeper.retry_s)


async def _predictor_state(gate: UploadGate) -> str:
    table = gate.router.table
    if table is None:
        return "no routing table"
    client = gate.predictors.get(table.releases[table.champion].url)
    return "ok" if await client.is_ready(timeout_s=_READY_S) else "unavailable"


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in statuses}


def _body(model: type[Any], **parts: type[Any]) -> dict[str, Any]:
    """Return the request body for OpenAPI: routes read the body themselves, to stop at its limit."""
    schema = model.model_json_schema()
    for name, part in parts.items():
        schema["properties"][name] = part.model_json_schema()
    definitions = schema.pop("$defs", {})
    text = _inline(schema, definitions)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": text}}}}


def _upload_body() -> dict[str, Any]:
    """Return the two forms in which an upload may be sent."""
    body = _body(DecisionRequest, listing=Listing)
    listing = body["requestBody"]["content"]["application/json"]["schema"]["properties"]["listing"]
    properties = {
        "listing": listing,
        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
        "submission_id": {"type": "string"},
    }
    schema = {"type": "object", "required": ["listing"], "properties": properties}
    body["requestBody"]["content"][MEDIA_TYPE] = {
        "schema": schema,
        "encoding": {"listing": {"contentType": "application/json"}},
    }
    return body


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """Return a schema without references, which would point outside of OpenAPI's own components."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {key: _inline(value, definitions) for key, value in node.items()}
    return [_inline(item, definitions) for item in node] if isinstance(node, list) else node
