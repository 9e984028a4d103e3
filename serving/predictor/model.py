"""The KServe model: V2 tensors in, scores out; what costs time is done by the queue's threads, not the event loop."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from kserve import InferOutput, InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from moderation.behaviour_prefilter import digest_of
from moderation.clock import Clock, SystemClock
from moderation.errors import InvalidListing
from moderation.scoring import Scorer, Scores
from moderation.telemetry import request_span, span
from moderation.thresholds import load_solved
from moderation.tracing import TRACEPARENT
from serving.openinference import MODEL_NAME
from serving.predictor.inputs import parse_items, parse_terms
from serving.predictor.intake import Intake
from serving.predictor.measures import REQUESTS
from serving.predictor.queue import BatchQueue, Overloaded, TooLate
from serving.release import Release

# Larger requests are taken apart on a thread: base64 runs at about 1 GB/s, and the event loop has others to serve.
INLINE_BYTES: Final = 256 * 2**10
_ALWAYS: Final = ("probability", "signals", "signal_status", "worst_image")
_ON_REQUEST: Final = ("embedding_image", "embedding_text")
_DATATYPES: Final = {
    "probability": "FP64",
    "signals": "FP64",
    "signal_status": "INT8",
    "worst_image": "INT32",
    "embedding_image": "FP32",
    "embedding_text": "FP32",
}
_NUMPY: Final = {"FP64": np.float64, "FP32": np.float32, "INT32": np.int32, "INT8": np.int8}


class TidegateModel(Model):  # type: ignore[misc]  # KServe ships no types
    """One loaded bundle as a V2 model.

    Args:
        queue: the loaded bundle behind its queue.
        release: what the bundle is, for the metadata.
        intake: how much is in hand; whoever reads requests asks it first.
        clock: that of the queue.
    """

    def __init__(
        self, queue: BatchQueue, release: Release, intake: Intake, clock: Clock | None = None
    ) -> None:
        super().__init__(MODEL_NAME)
        self.intake = intake
        self.release = release
        self.queue = queue
        self._clock = clock or SystemClock()
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None
    ) -> InferResponse:
        """Return the scores of one V2 request; cancelling the call takes it out of the queue.

        Raises:
            Exception: as `tensors` does.
        """
        is_raw = payload.use_binary_outputs
        found = await self.tensors(payload, headers or {})
        return InferResponse(
            response_id=payload.id or new_id(),
            model_name=self.name,
            model_version=self.release.bundle,
            infer_outputs=[_output(name, array, is_raw=is_raw) for name, array in found.items()],
            use_binary_outputs=is_raw,
        )

    async def tensors(
        self, payload: InferRequest, headers: dict[str, str]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the output tensors of one V2 request by name; cancelling the call takes it out of the queue.

        Raises:
            InvalidInput: if the request is not what the metadata describes (400, INVALID_ARGUMENT).
            Overloaded: if it was not let in (503, RESOURCE_EXHAUSTED).
            TooLate: if its deadline cannot be met (504, DEADLINE_EXCEEDED).
        """
        status = "error"
        try:
            # KServe hands on gRPC metadata and HTTP headers alike, and looks at neither.
            with request_span("predictor.request", headers.get(TRACEPARENT)):
                found = await self._answer(payload, headers)
            status = "ok"
        except (InvalidInput, InvalidListing) as error:
            status = "invalid"
            raise InvalidInput(str(error)) from error
        except Overloaded:
            status = "overloaded"
            raise
        except TooLate:
            status = "late"
            raise
        except asyncio.CancelledError:
            status = "cancelled"
            raise
        finally:
            REQUESTS.labels(status).inc()
        return found

    async def _answer(
        self, request: InferRequest, headers: dict[str, str]
    ) -> dict[str, npt.NDArray[Any]]:
        now_s = self._clock.monotonic()
        names = _requested(request)
        with_embeddings = not set(names).isdisjoint(_ON_REQUEST)
        terms = parse_terms(request, headers, now_s, with_embeddings=with_embeddings)
        self.queue.check_unread(terms.num_bytes, terms.priority)
        with span("predictor.decode"):
            if terms.num_bytes > INLINE_BYTES:
                items = await asyncio.to_thread(parse_items, request, self.release.features)
            else:
                items = parse_items(request, self.release.features)
        with span("predictor.score", num_items=len(items), release=self.release.bundle):
            scores = await self.queue.score(items, terms)
        return {name: _array(name, scores) for name in names}

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the V2 description of the inputs; -1 is an axis of any length."""
        num_features = len(self.release.features)
        shapes = {
            "title": ("BYTES", [-1]),
            "description": ("BYTES", [-1]),
            "images": ("BYTES", [-1]),
            "image_count": ("INT32", [-1]),
            "behaviour": ("FP32", [-1, num_features]),
            "behaviour_status": ("INT8", [-1, num_features]),
        }
        return [{"name": n, "datatype": t, "shape": s} for n, (t, s) in shapes.items()]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the V2 description of the outputs; the embeddings come on request only."""
        num_policies, num_members = len(self.release.policies), len(self.release.members)
        shapes = {
            "probability": [-1, num_policies],
            "signals": [-1, num_policies, num_members],
            "signal_status": [-1, num_policies, num_members],
            "worst_image": [-1, num_policies],
            "embedding_image": [-1, -1],
            "embedding_text": [-1, -1],
        }
        return [{"name": n, "datatype": _DATATYPES[n], "shape": s} for n, s in shapes.items()]


def release_of(scorer: Scorer) -> Release:
    """Return what the loaded bundle is, for the model's metadata."""
    manifest = scorer.bundle.manifest
    solved = load_solved(scorer.bundle.folder / "thresholds.json")
    return Release(
        bundle=scorer.digest,
        policies=manifest.policies,
        members=manifest.members,
        features=manifest.features,
        thresholds={policy: dict(tiers) for policy, tiers in scorer.thresholds.items()},
        shares={one.policy: one.enforced_share for one in solved if one.enforced_share > 0},
        versions=scorer.bundle.versions,
        prefilter=None if scorer.prefilter is None else digest_of(scorer.prefilter.to_bytes()),
        engine=scorer.engine,
    )


def _requested(request: InferRequest) -> Sequence[str]:
    """Return the outputs that a request asks for by name; the embeddings only so."""
    if not request.request_outputs:
        return _ALWAYS
    names = [output.name for output in request.request_outputs]
    strangers = [name for name in names if name not in _DATATYPES]
    if strangers:
        raise InvalidInput(
            f'output "{strangers[0]}" is unknown; known are {", ".join((*_ALWAYS, *_ON_REQUEST))}'
        )
    return names


def datatype_of(name: str) -> str:
    """Return the V2 type of an output."""
    return _DATATYPES[name]


def new_id() -> str:
    """Return the id of a response to a request that has none."""
    return uuid.uuid4().hex


def _output(name: str, array: npt.NDArray[Any], *, is_raw: bool) -> InferOutput:
    output = InferOutput(name=name, shape=list(array.shape), datatype=_DATATYPES[name])
    # Set here: KServe's own conversion takes the truth value of an array and fails.
    output.set_data_from_numpy(array, binary_data=is_raw)
    return output


def _array(name: str, scores: Scores) -> npt.NDArray[Any]:
    """Return one output tensor; JSON has no NaN, so what was not measured is 0 beside its status."""
    value = {
        "probability": scores.probability_NP,
        "signals": np.where(scores.signal_status_NPM == 0, scores.signals_NPM, 0.0),
        "signal_status": scores.signal_status_NPM,
        "worst_image": scores.worst_image_NP,
        "embedding_image": scores.embedding_image_ND,
        "embedding_text": scores.embedding_text_ND,
    }[name]
    if value is None:
        raise InvalidInput(f'output "{name}": this bundle has no such tower; do not ask for it')
    return np.ascontiguousarray(value, _NUMPY[_DATATYPES[name]])
