"""What a predictor answers over REST beside its inference: KServe's routes, but for those that it does not offer."""

import re
from collections.abc import MutableMapping
from typing import Any, Final

from serving.predictor.asgi import App, Receive, Scope, Send, error_answer, send_answer
from serving.predictor.bodies import TooLarge, TooSlow, parse_length, read_body
from serving.predictor.intake import Intake
from serving.predictor.refusals import refusal
from serving.predictor.terms import Overloaded

MAX_OTHER_BYTES: Final = 2**20
"""Of a body. None of these routes needs more than a few hundred bytes, and KServe parses them on the event loop."""

_CLOSED: Final = {
    re.compile(
        r"/v2/repository(/.*)?"
    ): "a predictor serves one bundle: start another one with another bundle",
    re.compile(
        r"/v1/models/[^/]+:predict/?"
    ): "V1 has no tensors by name: use /v2/models/{name}/infer",
}
"""What is said under these paths. KServe's model repository would let anybody unload the model for everybody."""


class OtherRoutes:
    """An ASGI application that hands requests on to KServe's, their bodies bounded, unless their route is closed.

    Args:
        app: KServe's.
        intake: holds their bodies while they are answered.
    """

    def __init__(self, app: App, intake: Intake) -> None:
        self._app, self._intake = app, intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for a closed route, 413, 408 or 503 for a body that is not taken, and hand on everything else."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reasons = [said for pattern, said in _CLOSED.items() if pattern.fullmatch(scope["path"])]
        if reasons:
            await send_answer(send, error_answer(404, reasons[0]))
            return
        told = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        with self._intake.hold() as holding:
            try:
                body = await read_body(receive, parse_length(told) or 0, MAX_OTHER_BYTES, holding)
            except (TooLarge, TooSlow, Overloaded) as error:
                await send_answer(send, refusal(error, "only /v2/models/{name}/infer takes more"))
                return
            if body is not None:
                await self._app(scope, _after(body, receive), send)


def _after(body: bytearray, receive: Receive) -> Receive:
    """Return what hears the whole body once, and then whatever else comes."""
    is_told = False

    async def hear() -> MutableMapping[str, Any]:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return hear
