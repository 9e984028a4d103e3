"""V2 inference over REST, in place of KServe's route.

KServe's own turns binary tensors into lists of text, answers a malformed body with 422, and computes on when the caller
has gone. Here a body is JSON, or JSON followed by raw tensors (the protocol's binary extension); a caller that goes
away takes its listings out of the queue; no room is 503 with Retry-After, said before the body is decoded and, where
no line has room, before it is read; a missed deadline is 504.

It speaks ASGI itself: what a web framework does around a route is a good part of the event loop's work for a small
request.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt
import orjson
from kserve import InferRequest
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from serving.predictor.asgi import (
    JSON,
    Answer,
    App,
    Receive,
    Scope,
    Send,
    error_answer,
    send_answer,
)
from serving.predictor.backlog import Priority
from serving.predictor.bodies import MAX_BODY_BYTES, parse_length, read_body
from serving.predictor.bounds import check_document, check_marks, element_bounds
from serving.predictor.intake import Holding, counted
from serving.predictor.model import INLINE_BYTES, TidegateModel, datatype_of, new_id
from serving.predictor.refusals import REFUSALS, refusal

_LOG = logging.getLogger(__name__)
_HEADER_LENGTH = "inference-header-content-length"
_BINARY_SIZE = "binary_data_size"
_PRIORITY = b'"priority"'
"""A body without it is an upload's."""


class RestInference:
    """An ASGI application that answers the inference of one model, and hands on everything else.

    Args:
        model: whose inference it answers.
        others: takes every other request.
    """

    def __init__(self, model: TidegateModel, others: App) -> None:
        self._model, self._others = model, others
        self._bounds = element_bounds(model.release.features)
        self._path = re.compile(rf"/v2/models/{re.escape(model.name)}(?:/versions/([^/]+))?/infer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer `POST /v2/models/{name}[/versions/{version}]/infer`."""
        found = self._path.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None or scope["method"] != "POST":
            await self._others(scope, receive, send)
            return
        answer = await self._answered(found[1], _headers(scope["headers"]), receive)
        if answer is None:
            return  # nobody reads it
        await send_answer(send, answer)

    async def _answered(
        self, version: str | None, headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        try:
            return await self._infer(version, headers, receive)
        except REFUSALS as error:
            return refusal(error, "send fewer listings")
        except Exception as error:
            _LOG.exception("request failed")
            return error_answer(500, f"{type(error).__name__}: see the predictor's log")

    async def _infer(
        self, version: str | None, headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        if version not in (None, self._model.release.bundle):
            raise ModelNotFound(f"{self._model.name} in version {version}")
        with self._model.intake.hold() as holding:
            with counted():
                parsed = await self._parsed(headers, receive, holding)
            if parsed is None:
                return None
            return await self._scored(parsed, headers, receive)

    async def _scored(
        self, parsed: InferRequest, headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        with counted():
            is_raw = _raw_outputs(parsed)
        answering = asyncio.current_task()
        assert answering is not None
        leaving = asyncio.create_task(_cancel_when_gone(receive, answering))
        try:
            return self._written(parsed, await self._model.tensors(parsed, headers), is_raw)
        except asyncio.CancelledError:
            if not leaving.done():
                raise  # the server itself ends
            answering.uncancel()
            return None
        finally:
            leaving.cancel()

    async def _parsed(
        self, headers: dict[str, str], receive: Receive, holding: Holding
    ) -> InferRequest | None:
        """Return the request; None if its caller left. Its body is let go of."""
        body = await self._read(headers, receive, holding)
        if body is None:
            return None
        told = (headers.get(_HEADER_LENGTH), self._model.name, self._bounds)
        if len(body) > INLINE_BYTES:
            return await asyncio.to_thread(parse_body, body, *told)
        return parse_body(body, *told)

    def _written(
        self, request: InferRequest, found: dict[str, npt.NDArray[Any]], is_raw: Mapping[str, bool]
    ) -> Answer:
        """Return JSON and raw tensors, written from the arrays, without the lists that KServe makes of them.

        Args:
            request: what is answered; it says how outputs come that are not in `is_raw`.
            found: tensors by name.
            is_raw: whether a tensor comes behind the JSON, by name.
        """
        outputs: list[dict[str, Any]] = []
        raw: list[bytes] = []
        for name, array in found.items():
            output: dict[str, Any] = {
                "name": name,
                "shape": array.shape,
                "datatype": datatype_of(name),
            }
            if is_raw.get(name, bool(request.use_binary_outputs)):
                raw.append(array.tobytes())
                output["parameters"] = {_BINARY_SIZE: len(raw[-1])}
            else:
                output["data"] = array.reshape(-1)
            outputs.append(output)
        answer = {
            "id": request.id or new_id(),
            "model_name": self._model.name,
            "model_version": self._model.release.bundle,
            "outputs": outputs,
        }
        json = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
        if not raw:
            return 200, dict(JSON), json
        headers = {"content-type": "application/octet-stream", _HEADER_LENGTH: str(len(json))}
        return 200, headers, b"".join([json, *raw])

    async def _read(
        self, headers: dict[str, str], receive: Receive, holding: Holding
    ) -> bytearray | None:
        """Return the body, unless its size or its priority alone leaves it no room: then nothing is decoded.

        Returns:
            None if the caller left before its end.

        Raises:
            Overloaded: if it cannot be let in.
            TooLarge: if it is beyond the bound; it is not read to its end.
            TooSlow: if it does not come in time.
        """
        queue = self._model.queue
        declared = parse_length(headers.get("content-length", "")) or 0
        queue.check_unread(declared)
        body = await read_body(receive, declared, MAX_BODY_BYTES, holding)
        if body is not None and _PRIORITY not in body:
            queue.check_unread(len(body), Priority.UPLOAD)
        return body


def _headers(given: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by their names, which ASGI gives in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in given}


def parse_body(
    body: bytes | bytearray, header_length: str | None, model_name: str, bounds: Mapping[str, int]
) -> InferRequest:
    """Return the request in a body of JSON, or of JSON and raw tensors behind it.

    Args:
        body: as it came.
        header_length: length of the JSON, where raw tensors follow.
        model_name: for messages.
        bounds: most elements by the name of the input.

    Raises:
        InvalidInput: saying what to send instead.
    """
    end = len(body) if header_length is None else _json_length(header_length, len(body))
    check_marks(body, end)
    try:
        document = orjson.loads(memoryview(body)[:end])
        check_document(document, bounds)
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


def _json_length(told: str, most: int) -> int:
    length = parse_length(told)
    if length is None or length > most:
        raise InvalidInput(f"{_HEADER_LENGTH} is {told[:20]!r}; send the length of the JSON")
    return length


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


def _raw_outputs(request: InferRequest) -> dict[str, bool]:
    """Return whether an output comes raw, by the name of those that say so for themselves.

    Raises:
        InvalidInput: if one says something else.
    """
    said = {
        one.name: one.binary_data
        for one in request.request_outputs or ()
        if one.binary_data is not None
    }
    for name, value in said.items():
        if not isinstance(value, bool):
            raise InvalidInput(f'output "{name}": binary_data is {value!r}; send true or false')
    return said


async def _cancel_when_gone(receive: Receive, answering: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()
