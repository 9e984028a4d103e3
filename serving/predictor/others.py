"""What a predictor answers over REST beside its inference: KServe's routes, but for those that it does not offer."""

from typing import Final

from serving.predictor.asgi import App, Receive, Scope, Send, error_answer, send_answer

_CLOSED: Final = {
    "/v2/repository": "a predictor serves one bundle: start another one with another bundle",
}
"""What is said under these paths. KServe's model repository would let anybody unload the model for everybody."""


class OtherRoutes:
    """An ASGI application that hands requests on to KServe's, unless their route is closed.

    Args:
        app: KServe's.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for a closed route, and hand on everything else."""
        reason = _closed(scope["path"]) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await send_answer(send, error_answer(404, reason))


def _closed(path: str) -> str | None:
    """Return why a path is not served; None if it is."""
    for prefix, reason in _CLOSED.items():
        if path == prefix or path.startswith(f"{prefix}/"):
            return reason
    return None
