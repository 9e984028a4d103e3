"""V2 inference over REST, in place of KServe's route.

KServe's own turns binary tensors into lists of text, answers a malformed body with 422, and computes on when the caller
has gone. Here a body is JSON, or JSON followed by raw tensors (the protocol's binary extension); a caller that goes
away takes its listings out of the queue; no room is 503 with Retry-After, said before the body is decoded and, where
no line has room, before it is read; a missed deadline is 504.
"""

import asyncio
import math
from typing import Any

import orjson
from fastapi import Request, Response
from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from serving.predictor.backlog import Priority
from serving.predictor.measures import REQUESTS
from serving.predictor.model import TidegateModel
from serving.predictor.queue import Overloaded, TooLate

_HEADER_LENGTH = "inference-header-content-length"
_BINARY_SIZE = "binary_data_size"
_PRIORITY = b'"priority"'
"""A body without it is an upload's."""

_INLINE_BYTES = 256 * 2**10


class RestInference:
    """The route of one model."""

    def __init__(self, model: TidegateModel) -> None:
        self._model = model

    async def infer(self, request: Request) -> Response:
        """Answer `POST /v2/models/{name}[/versions/{version}]/infer`."""
        self._check_version(request.path_params.get("version"))
        try:
            body = await self._read(request)
        except Overloaded as error:
            REQUESTS.labels("overloaded").inc()
            return _refused(error)
        length = request.headers.get(_HEADER_LENGTH)
        if len(body) > _INLINE_BYTES:
            parsed = await asyncio.to_thread(parse_body, body, length, self._model.name)
        else:
            parsed = parse_body(body, length, self._model.name)
        answering = asyncio.ensure_future(self._model.predict(parsed, dict(request.headers)))
        leaving = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                return Response(status_code=499)  # nobody reads it
            return _written(answering.result())
        except Overloaded as error:
            return _refused(error)
        except TooLate as error:
            return _error(504, error)
        finally:
            answering.cancel()
            leaving.cancel()

    async def _read(self, request: Request) -> bytes:
        """Return the body, unless its size or its priority alone leaves it no room: then nothing is decoded.

        Raises:
            Overloaded: if it cannot be let in.
        """
        queue, declared = self._model.queue, request.headers.get("content-length", "")
        queue.check_unread(int(declared) if declared.isdecimal() else 0)
        body = await request.body()
        if _PRIORITY not in body:
            queue.check_unread(len(body), Priority.UPLOAD)
        return body

    def _check_version(self, version: str | None) -> None:
        if version not in (None, self._model.release.bundle):
            raise ModelNotFound(f"{self._model.name} in version {version}")


def parse_body(body: bytes, header_length: str | None, model_name: str) -> InferRequest:
    """Return the request in a body of JSON, or of JSON and raw tensors behind it.

    Args:
        body: as it came.
        header_length: length of the JSON, where raw tensors follow.
        model_name: for messages.

    Raises:
        InvalidInput: saying what to send instead.
    """
    if header_length is not None and not (
        header_length.isdecimal() and int(header_length) <= len(body)
    ):
        raise InvalidInput(f"{_HEADER_LENGTH} is {header_length!r}; send the length of the JSON")
    end = len(body) if header_length is None else int(header_length)
    try:
        document = orjson.loads(body[:end])
        raw = _take_raw(document, memoryview(body)[end:])
        request = InferRequest.from_inference_request(
            InferenceRequest.model_validate(document), model_name
        )
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is no JSON: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{where or 'the body'}: {first['msg']}") from error
    for place, data in raw.items():
        request.inputs[place]._raw_data = data
    return request


def _take_raw(document: Any, rest: memoryview) -> dict[int, bytes]:
    """Return the raw tensors by the place of their input; these get empty data, which the JSON form asks for."""
    raw: dict[int, bytes] = {}
    inputs = document.get("inputs") if isinstance(document, dict) else None
    for place, tensor in enumerate(inputs if isinstance(inputs, list) else ()):
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        if not isinstance(parameters, dict) or _BINARY_SIZE not in parameters:
            continue
        size = parameters[_BINARY_SIZE]
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise InvalidInput(
                f"inputs.{place}: {_BINARY_SIZE} is {size!r}, {len(rest)} bytes follow"
            )
        raw[place], rest = bytes(rest[:size]), rest[size:]
        tensor["data"] = []
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes follow the JSON that no {_BINARY_SIZE} names")
    return raw


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _written(response: InferResponse) -> Response:
    content, json_size = response.to_rest()
    if json_size is None:
        return Response(orjson.dumps(content), media_type="application/json")
    return Response(
        content, media_type="application/octet-stream", headers={_HEADER_LENGTH: str(json_size)}
    )


def _refused(error: Overloaded) -> Response:
    return _error(503, error, {"retry-after": str(math.ceil(error.delay_s))})


def _error(status: int, error: Exception, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({"error": str(error)})
    return Response(body, status, headers, media_type="application/json")
