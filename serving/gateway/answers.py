"""What a caller is told: the decision for everyone, its evidence for reviewers only."""

from typing import Any, Final

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from moderation.decision import MODEL_UNAVAILABLE, Decision
from moderation.errors import InvalidListing, TemporaryError, TidegateError
from moderation.policy import PolicyFile
from serving.errors import BodyTooSlow, Unauthenticated, status_of
from serving.gateway.auth import SEES_EVIDENCE, Caller

_UNAVAILABLE_MESSAGE: Final = "The automatic check was not available; a person will look at it."


OUR_FAULT: Final = 500
CLIENT_GONE: Final = 499
"""As nginx calls a request whose caller went away before it was answered."""

OUR_FAULT_MESSAGE: Final = "our fault; it is logged, try again"


class Reason(BaseModel):
    """One reason code, as a seller may read it."""

    code: str
    message: str


class DecisionAnswer(BaseModel):
    """The decision about one upload."""

    model_config = ConfigDict(extra="forbid")

    decision_id: str
    trace_id: str
    submission_id: str
    tier: str
    reasons: list[Reason]
    evidence: Decision | None = None
    """Signals, scores and versions; for reviewers and admins only."""


class TruthAnswer(BaseModel):
    """The receipt of a ground truth."""

    ground_truth_id: str
    recorded: bool
    """False where it had been recorded before."""


class ReversalAnswer(BaseModel):
    """The receipt of a reversal."""

    reversal_id: str
    recorded: bool
    """False where it had been recorded before."""


class ErrorAnswer(BaseModel):
    """What was wrong and what to do."""

    error: str
    message: str
    field: str | None = None
    """The field of the listing that broke a limit."""


def decision_answer(decision: Decision, policies: PolicyFile, caller: Caller) -> dict[str, Any]:
    """Return the answer that `caller` may see."""
    messages = {policy.reason_code: policy.seller_message for policy in policies.policies}
    messages[MODEL_UNAVAILABLE] = _UNAVAILABLE_MESSAGE
    answer = DecisionAnswer(
        decision_id=decision.decision_id,
        trace_id=decision.trace_id,
        submission_id=decision.submission_id,
        tier=decision.tier,
        reasons=[
            # A decision may be older than the policies in force; its code outlives its message.
            Reason(code=code, message=messages.get(code, code))
            for code in decision.reason_codes
        ],
        evidence=decision if caller.role in SEES_EVIDENCE else None,
    )
    return answer.model_dump(mode="json", exclude=None if answer.evidence else {"evidence"})


def error_answer(error: TidegateError) -> JSONResponse:
    """Return the HTTP answer of an error; where our files lie, and what is wrong inside, is in the log alone."""
    headers: dict[str, str] = {}
    if isinstance(error, TemporaryError):
        headers["Retry-After"] = str(max(1, round(error.delay_s)))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    status = status_of(error)
    if isinstance(error, BodyTooSlow):
        headers["Connection"] = "close"  # or the rest would still be waited for
    content = ErrorAnswer(
        error=type(error).__name__,
        message=error.told if status != OUR_FAULT else OUR_FAULT_MESSAGE,
        field=error.field if isinstance(error, InvalidListing) else None,
    )
    return JSONResponse(content.model_dump(), status, headers)
