"""Asks a predictor over gRPC: one listing in, one checked answer out, or an error that says which kind of failure."""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from moderation.tracing import TRACEPARENT, traceparent
from serving.errors import (
    PredictorError,
    PredictorOverloaded,
    PredictorRefused,
    PredictorTimeout,
)
from serving.openinference import (
    MAX_MESSAGE_BYTES,
    MODEL_NAME,
    PREFILTER_MODEL_NAME,
    RELEASE_METADATA_KEY,
    RETRY_AFTER_METADATA_KEY,
    SERVICE,
    PriorityName,
    add_input,
    messages,
    read_bytes_output,
    read_outputs,
)
from serving.release import Release, parse_release

# A predictor that comes back is used again within a second; gRPC's own back-off goes to two minutes.
_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 2**20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
]


_RETRY_S: Final = 1.0


@dataclass(frozen=True)
class Query:
    """One listing as the predictor takes it."""

    title: str
    description: str
    images: Sequence[bytes]
    behaviour_F: npt.NDArray[np.float32]
    """0 where the status is not ok."""

    status_F: npt.NDArray[np.int8]


@dataclass(frozen=True)
class Answer:
    """What one release says of one listing."""

    release: Release
    probability_P: npt.NDArray[np.float64]
    signals_PM: npt.NDArray[np.float64]
    signal_status_PM: npt.NDArray[np.int8]
    worst_image_P: npt.NDArray[np.int32]


class PredictorClient:
    """One predictor, whatever release it serves.

    Args:
        url: `grpc://host:port`.
    """

    def __init__(self, url: str) -> None:
        self._channel = grpc.aio.insecure_channel(url.removeprefix("grpc://"), options=_OPTIONS)
        self._infer = self._call("ModelInfer", messages.ModelInferResponse)
        self._metadata = self._call("ModelMetadata", messages.ModelMetadataResponse)
        self._ready = self._call("ModelReady", messages.ModelReadyResponse)
        self._release: Release | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def is_ready(self, *, timeout_s: float) -> bool:
        """Return whether the predictor would answer now."""
        try:
            response = await self._ready(
                messages.ModelReadyRequest(name=MODEL_NAME), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(response.ready)

    async def release(self, *, timeout_s: float) -> Release:
        """Return what the predictor serves.

        Raises:
            PredictorError: if it cannot be asked, or its answer is no release.
        """
        call = self._metadata(messages.ModelMetadataRequest(name=MODEL_NAME), timeout=timeout_s)
        try:
            await call
            trailers = dict(await call.trailing_metadata())
            release = parse_release(trailers[RELEASE_METADATA_KEY])
        except grpc.RpcError as error:
            raise _translated(error) from error
        except (KeyError, ValueError) as error:
            raise PredictorError(f"the predictor does not say what it serves: {error}") from error
        self._release = release
        return release

    async def prefilter(self, *, bundle: str, timeout_s: float) -> bytes | None:
        """Return the behaviour prefilter of the release `bundle`, its digest verified; None if it has none.

        Raises:
            PredictorError: if it cannot be asked, serves another bundle, or what came was altered.
        """
        release = await self.release(timeout_s=timeout_s)
        _expect(release.bundle == bundle, f"it serves {release.bundle}, not {bundle}")
        if release.prefilter is None:
            return None
        request = messages.ModelInferRequest(model_name=PREFILTER_MODEL_NAME)
        add_input(request, "bundle", [bundle.encode()])
        try:
            data = read_bytes_output(await self._infer(request, timeout=timeout_s), "prefilter")
        except grpc.RpcError as error:
            raise _translated(error) from error
        except ValueError as error:
            raise PredictorError(f"the predictor's answer is broken: {error}") from error
        actual = hashlib.sha256(data).hexdigest()
        _expect(actual == release.prefilter, f"its prefilter has the SHA-256 {actual}")
        return data

    async def ask(
        self,
        query: Query,
        *,
        bundle: str,
        timeout_s: float,
        priority: PriorityName = "upload",
    ) -> Answer:
        """Return the scores of one listing by the release `bundle`.

        Raises:
            PredictorTimeout: if no answer came within `timeout_s`, the metadata's round trip included.
            PredictorOverloaded: if it had no room; `delay_s` says when it should.
            PredictorRefused: if it refuses the listing.
            PredictorError: if it is down, serves another bundle, or answers nonsense.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(query, bundle, timeout_s, priority)
        except TimeoutError as error:
            raise PredictorTimeout(f"no answer within {timeout_s:g} s") from error

    async def _ask(
        self, query: Query, bundle: str, timeout_s: float, priority: PriorityName
    ) -> Answer:
        release = self._release
        if release is None or release.bundle != bundle:
            release = await self.release(timeout_s=timeout_s)
        _expect(release.bundle == bundle, f"it serves {release.bundle}, not {bundle}")
        try:
            request = _request(query, priority)
            response = await self._infer(request, timeout=timeout_s, metadata=_trace())
        except grpc.RpcError as error:
            raise _translated(error) from error
        _expect(response.model_version == bundle, "it changed its bundle meanwhile; ask again")
        return _answer(response, release, len(query.images))

    def _call(self, name: str, response: Any) -> Any:
        return self._channel.unary_unary(
            f"{SERVICE}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )


class PredictorPool:
    """One client per address, opened when first needed."""

    def __init__(self) -> None:
        self._clients: dict[str, PredictorClient] = {}

    def get(self, url: str) -> PredictorClient:
        """Return the client of `url`."""
        if url not in self._clients:
            self._clients[url] = PredictorClient(url)
        return self._clients[url]

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


def _trace() -> tuple[tuple[str, str], ...]:
    """Return the gRPC metadata that puts the predictor's spans below the current one."""
    current = traceparent()
    return ((TRACEPARENT, current),) if current else ()


def _request(query: Query, priority: PriorityName) -> Any:
    request = messages.ModelInferRequest(model_name=MODEL_NAME)
    request.parameters["priority"].string_param = priority
    add_input(request, "title", [query.title.encode()])
    add_input(request, "description", [query.description.encode()])
    add_input(request, "images", query.images)
    add_input(request, "image_count", np.array([len(query.images)], np.int32))
    add_input(request, "behaviour", query.behaviour_F[None])
    add_input(request, "behaviour_status", query.status_F[None])
    return request


def _answer(response: Any, release: Release, num_images: int) -> Answer:
    """Return the checked answer: a wrong shape, a probability that is none, an image that is none are errors."""
    num_policies, num_members = len(release.policies), len(release.members)
    try:
        outputs = read_outputs(response)
        answer = Answer(
            release,
            _shaped(outputs, "probability", (num_policies,)).astype(np.float64),
            _shaped(outputs, "signals", (num_policies, num_members)).astype(np.float64),
            _shaped(outputs, "signal_status", (num_policies, num_members)).astype(np.int8),
            _shaped(outputs, "worst_image", (num_policies,)).astype(np.int32),
        )
    except ValueError as error:
        raise PredictorError(f"the predictor's answer is broken: {error}") from error
    in_range = (answer.probability_P >= 0) & (answer.probability_P <= 1)
    _expect(bool(in_range.all()), f"its probabilities are {answer.probability_P.tolist()}")
    _expect(bool(np.isfinite(answer.signals_PM).all()), "a signal is not a number")
    status_PM = answer.signal_status_PM
    _expect(bool(((status_PM >= 0) & (status_PM <= 2)).all()), "a status is unknown")
    known = (answer.worst_image_P >= -1) & (answer.worst_image_P < num_images)
    _expect(bool(known.all()), "it names an image that was not sent")
    return answer


def _shaped(
    outputs: Mapping[str, npt.NDArray[Any]], name: str, shape: tuple[int, ...]
) -> npt.NDArray[Any]:
    if name not in outputs:
        raise ValueError(f"output {name} is missing")
    output = outputs[name]
    if output.shape != (1, *shape):
        raise ValueError(f"output {name} has the shape {output.shape}, not {(1, *shape)}")
    return output.reshape(shape)


def _expect(holds: bool, reason: str) -> None:
    if not holds:
        raise PredictorError(f"the predictor's answer cannot be used: {reason}")


def _translated(error: grpc.RpcError) -> PredictorError:
    code = error.code()
    message = f"{code.name}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return PredictorTimeout(message)
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return PredictorRefused(message)
    trailers = dict(error.trailing_metadata() or ())
    # Without the trailer it is gRPC itself that ran out of something: a message beyond its limit, say.
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and RETRY_AFTER_METADATA_KEY in trailers:
        return PredictorOverloaded(message, delay_s=_seconds(trailers[RETRY_AFTER_METADATA_KEY]))
    return PredictorError(message)


def _seconds(milliseconds: str) -> float:
    return int(milliseconds) / 1e3 if milliseconds.isdecimal() else _RETRY_S
