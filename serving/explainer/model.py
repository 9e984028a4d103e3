"""The KServe explainer: one listing and a policy in, one explanation out; computed on a thread of its own."""

import asyncio
import base64
import binascii
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Annotated, Any, Final

import numpy as np
from kserve import Model
from kserve.errors import InvalidInput
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import InvalidListing
from moderation.explaining.listing import Explainer
from moderation.features import FEATURE_NAMES
from moderation.listing import (
    MAX_DESCRIPTION_CHARS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_TITLE_CHARS,
)
from moderation.scoring import ScoringItem
from moderation.telemetry import request_span, span
from moderation.tracing import TRACEPARENT
from serving.openinference import MODEL_NAME

REQUESTS: Final = Counter(
    "tidegate_explainer_requests_total", "Requests to the explainer by their end.", ["status"]
)

_BASE64_CHARS: Final = 4 * -(-MAX_IMAGE_BYTES // 3)


class ExplainRequest(BaseModel):
    """One listing, as the predictor read it, and the policy that is asked about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policy: Annotated[str, Field(max_length=64)]
    title: Annotated[str, Field(max_length=MAX_TITLE_CHARS)] = ""
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)] = ""
    images: Annotated[
        tuple[Annotated[str, Field(max_length=_BASE64_CHARS)], ...], Field(max_length=MAX_IMAGES)
    ] = ()
    """In base64."""

    behaviour: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Features by name; those that are absent were missing."""

    def item(self) -> ScoringItem:
        """Return what the scorer reads.

        Raises:
            InvalidListing: naming the image that is not base64, or the feature that is unknown.
        """
        if strangers := sorted(self.behaviour.keys() - set(FEATURE_NAMES)):
            raise InvalidListing("behaviour", f"has the unknown feature {strangers[0][:64]}")
        values = [self.behaviour.get(name, np.nan) for name in FEATURE_NAMES]
        images = tuple(_decoded(text, f"images[{k}]") for k, text in enumerate(self.images))
        return ScoringItem(self.title, self.description, images, np.array(values, np.float32))


class ExplainerModel(Model):  # type: ignore[misc]  # KServe ships no types
    """One loaded bundle that explains itself.

    Args:
        explainer: the loaded bundle.
    """

    def __init__(self, explainer: Explainer) -> None:
        super().__init__(MODEL_NAME)
        self._explainer = explainer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.ready = True

    async def explain(
        self, payload: dict[str, Any], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Return KServe V1's `predictions` for its `instances`, of which there is one.

        Raises:
            InvalidInput: if the request is not of this shape (400).
        """
        instances = payload.get("instances") if isinstance(payload, dict) else None
        if not isinstance(instances, list) or len(instances) != 1:
            raise InvalidInput('send {"instances": [one listing with its policy]}')
        return {"predictions": [await self.explain_one(instances[0], headers)]}

    async def explain_one(
        self, content: Any, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the explanation of one listing as JSON.

        Raises:
            InvalidInput: naming the field that is wrong.
        """
        loop = asyncio.get_running_loop()
        try:
            request = ExplainRequest.model_validate(content)
            with request_span("explainer.request", (headers or {}).get(TRACEPARENT)):
                context = copy_context()
                answer: dict[str, Any] = await loop.run_in_executor(
                    self._executor, context.run, self._answer, request
                )
        except ValidationError as error:
            REQUESTS.labels("invalid").inc()
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part)[:64] for part in first["loc"]) or "body"
            raise InvalidInput(f"{where}: {first['msg']}") from error
        except InvalidListing as error:
            REQUESTS.labels("invalid").inc()
            raise InvalidInput(str(error)) from error
        except Exception:
            REQUESTS.labels("error").inc()
            raise
        REQUESTS.labels("ok").inc()
        return answer

    def _answer(self, request: ExplainRequest) -> dict[str, Any]:
        with span("explainer.explain", policy=request.policy):
            explanation = self._explainer.explain(request.item(), request.policy)
        return explanation.model_dump(mode="json")


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidListing(field, "is not base64; encode the file's bytes so") from error
