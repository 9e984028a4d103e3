"""The routes by which an admin stops automatic enforcement or lets it go on, and by which others see its state."""

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from ledger.ledger import LedgerUnavailable
from moderation.enforcement import Cause
from serving.errors import NotFound
from serving.gateway.answers import ErrorAnswer
from serving.gateway.auth import SEES_EVIDENCE, STEERS, Callers, require
from serving.gateway.enforcement import Enforcement, EnforcementState
from serving.gateway.gate import UploadGate
from serving.gateway.requests import MAX_TRUTH_BYTES, parse_model, read_body


class EnforcementRequest(BaseModel):
    """What an admin wants of automatic enforcement."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["stopped", "automatic"]
    reason: Annotated[str, Field(min_length=8, max_length=500)]
    """Why, for the record."""


class EnforcementAnswer(BaseModel):
    """Whether listings are blocked and suspended without a person now, and since when."""

    state: Literal["stopped", "automatic"]
    reason: str | None = None
    cause: Cause | None = None
    by: str | None = None
    since: AwareDatetime | None = None
    number: int = 0
    """Changes so far."""


def add_enforcement(app: FastAPI, gate: UploadGate, callers: Callers) -> None:
    """Add the routes; without a watch over enforcement they say that it is off."""
    told: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer} for status in (401, 403, 404, 503)
    }
    changed = told | {status: {"model": ErrorAnswer} for status in (400, 408, 409, 413, 415)}

    @app.get("/v1/enforcement", response_model=EnforcementAnswer, responses=told)
    async def show(request: Request) -> EnforcementAnswer:
        """Say whether automatic enforcement is stopped, and why; needs the role reviewer or admin."""
        require(callers.authenticate(request.headers.get("authorization")), SEES_EVIDENCE)
        return _answer(_watch(gate).state)

    @app.post(
        "/v1/enforcement",
        response_model=EnforcementAnswer,
        responses=changed,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": EnforcementRequest.model_json_schema()}},
            }
        },
    )
    async def change(request: Request) -> EnforcementAnswer:
        """Stop automatic enforcement, or let it go on; needs the role admin. Every gateway follows within a second."""
        caller = callers.authenticate(request.headers.get("authorization"))
        require(caller, STEERS)
        enforcement = _watch(gate)
        asked = parse_model(
            await read_body(request, MAX_TRUTH_BYTES, gate.intake.body_s), EnforcementRequest
        )
        is_stop = asked.state == "stopped"
        timeout_s = gate.budgets.total_ms / 1e3
        try:
            change = partial(enforcement.change, stop=is_stop, reason=asked.reason, by=caller.name)
            await gate.run_aside(gate.for_admins, timeout_s, change)
        except TimeoutError as error:
            raise LedgerUnavailable(
                f"the ledger gave no answer in {timeout_s:g} s; it may still be done: look at GET /v1/enforcement, and "
                "send it again if it was not"
            ) from error
        return _answer(enforcement.state)


def _watch(gate: UploadGate) -> Enforcement:
    if gate.safeguards.enforcement is None:
        raise NotFound(
            "nothing watches over enforcement; the contract's serving.prediction_breaker and "
            "serving.enforcement_quotas are both off"
        )
    return gate.safeguards.enforcement


def _answer(state: EnforcementState) -> EnforcementAnswer:
    change = state.change
    told = EnforcementAnswer(
        state="stopped" if state.is_stopped else "automatic", reason=state.reason
    )
    if change is None:
        return told
    return told.model_copy(
        update={
            "reason": state.reason or change.reason,
            "cause": change.cause,
            "by": change.by,
            "since": change.at,
            "number": change.number,
        }
    )
