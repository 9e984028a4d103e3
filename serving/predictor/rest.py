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
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy.typing as npt
import orjson
from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput, ModelNotFound
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from serving.openinference import MAX_MESSAGE_BYTES
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
from serving.predictor.measures import REQUESTS
from serving.predictor.model import TidegateModel, datatype_of, new_id
from serving.predictor.queue import Overloaded, TooLate

MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES * 4 // 3
"""What gRPC takes, in base64."""

_LOG = logging.getLogger(__name__)
_HEADER_LENGTH = "inference-header-content-length"
_LENGTH_DIGITS = 19
_BINARY_SIZE = "binary_data_size"
_PRIORITY = b'"priority"'
"""A body without it is an upload's."""

_INLINE_BYTES = 256 * 2**10


class RestInference:
    """An ASGI application that answers the inference of one model, and hands on everything else.

    Args:
        model: whose inference it answers.
        others: takes every other request.
    """

    def __init__(self, model: TidegateModel, others: App) -> None:
        self._model, self._others = model, others
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
        except Overloaded as error:
            return error_answer(503, error, {"retry-after": str(math.ceil(error.delay_s))})
        except TooLate as error:
            return error_answer(504, error)
        except InvalidInput as error:
            return error_answer(400, error)
        except ModelNotFound as error:
            return error_answer(404, error)
        except _TooLarge as error:
            return error_answer(413, error, {"connection": "close"})
        except Exception as error:
            _LOG.exception("request failed")
            return error_answer(500, f"{type(error).__name__}: see the predictor's log")

    async def _infer(
        self, version: str | None, headers: dict[str, str], receive: Receive
    ) -> Answer | None:
        if version not in (None, self._model.release.bundle):
            raise ModelNotFound(f"{self._model.name} in version {version}")
        with _counted():
            body = await self._read(headers, receive)
            if body is None:
                return None
            length = headers.get(_HEADER_LENGTH)
            if len(body) > _INLINE_BYTES:
                parsed = await asyncio.to_thread(parse_body, body, length, self._model.name)
            else:
                parsed = parse_body(body, length, self._model.name)
        answering = asyncio.current_task()
        assert answering is not None
        leaving = asyncio.create_task(_cancel_when_gone(receive, answering))
        try:
            if parsed.use_binary_outputs:
                return _binary(await self._model.predict(parsed, headers))
            return self._written(parsed, await self._model.tensors(parsed, headers))
        except asyncio.CancelledError:
            if not leaving.done():
                raise  # the server itself ends
            answering.uncancel()
            return None
        finally:
            leaving.cancel()

    def _written(self, request: InferRequest, found: dict[str, npt.NDArray[Any]]) -> Answer:
        """Return JSON, written from the arrays themselves, without the lists that KServe makes of them."""
        outputs = [
            {
                "name": name,
                "shape": array.shape,
                "datatype": datatype_of(name),
                "data": array.reshape(-1),
            }
            for name, array in found.items()
        ]
        answer = {
            "id": request.id or new_id(),
            "model_name": self._model.name,
            "model_version": self._model.release.bundle,
            "outputs": outputs,
        }
        return 200, dict(JSON), orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

    async def _read(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """Return the body, unless its size or its priority alone leaves it no room: then nothing is decoded.

        Returns:
            None if the caller left before its end.

        Raises:
            Overloaded: if it cannot be let in.
            _TooLarge: if it is beyond the bound; it is not read to its end.
        """
        queue, declared = self._model.queue, headers.get("content-length", "")
        is_length = declared.isdecimal() and len(declared) <= _LENGTH_DIGITS
        num_declared = int(declared) if is_length else 0
        queue.check_unread(num_declared)
        num_bytes, chunks, is_more = 0, [], num_declared <= MAX_BODY_BYTES
        while is_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            num_bytes += len(chunks[-1])
            is_more = message.get("more_body", False) and num_bytes <= MAX_BODY_BYTES
        if max(num_bytes, num_declared) > MAX_BODY_BYTES:
            raise _TooLarge(f"the body is beyond {MAX_BODY_BYTES} bytes; send fewer listings")
        body = b"".join(chunks)
        if _PRIORITY not in body:
            queue.check_unread(len(body), Priority.UPLOAD)
        return body


class _TooLarge(Exception):
    """A body beyond what is read."""


@contextmanager
def _counted() -> Iterator[None]:
    """Count a request that is refused before the model hears of it, which counts all others."""
    try:
        yield
    except Overloaded:
        REQUESTS.labels("overloaded").inc()
        raise
    except (_TooLarge, InvalidInput):
        REQUESTS.labels("invalid").inc()
        raise


def _headers(given: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers by their names, which ASGI gives in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in given}


def parse_body(body: bytes, header_length: str | None, model_name: str) -> InferRequest:
    """Return the request in a body of JSON, or of JSON and raw tensors behind it.

    Args:
        body: as it came.
        header_length: length of the JSON, where raw tensors follow.
        model_name: for messages.

    Raises:
        InvalidInput: saying what to send instead.
    """
    end = len(body) if header_length is None else _json_length(header_length, len(body))
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


def _json_length(told: str, most: int) -> int:
    """Return the length of the JSON; Python converts no text of thousands of digits, so those are not tried."""
    if (
        not (told.isascii() and told.isdecimal() and len(told) <= _LENGTH_DIGITS)
        or int(told) > most
    ):
        raise InvalidInput(
            f"{_HEADER_LENGTH} is {told[: _LENGTH_DIGITS + 1]!r}; send the length of the JSON"
        )
    return int(told)


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


async def _cancel_when_gone(receive: Receive, answering: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    answering.cancel()


def _binary(response: InferResponse) -> Answer:
    content, json_size = response.to_rest()
    headers = {"content-type": "application/octet-stream", _HEADER_LENGTH: str(json_size)}
    return 200, headers, content
