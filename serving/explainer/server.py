"""KServe's model server around one explainer: V1's `:explain`, and the same beside the V2 routes, on one address."""

import asyncio
from typing import Any, Final

import kserve.model_server as kserve_server
from fastapi import Request
from kserve.errors import InvalidInput
from kserve.protocol.rest.server import RESTServer

from serving.explainer.model import ExplainerModel

_GRACE_S: Final = 30


class ExplainerServer(kserve_server.ModelServer):  # type: ignore[misc]  # KServe ships no types
    """Serve one explainer over REST.

    V2 has no verb for explaining, and KServe's data plane offers it in V1 alone; the route beside it is ours.

    Args:
        model: the loaded explainer.
        host: address to listen on.
        http_port: its port.
    """

    def __init__(self, model: ExplainerModel, *, host: str, http_port: int) -> None:
        super().__init__(
            http_port=http_port,
            workers=1,
            enable_grpc=False,
            enable_latency_logging=False,
            grace_period=_GRACE_S,
        )
        self._model, self._host = model, host

    def serve(self) -> None:
        """Serve until a signal stops the process; requests in flight are answered first."""
        self._register_and_check_atleast_one_model_is_ready([self._model])
        _add_route(self._model)
        self._rest_server = RESTServer(
            kserve_server.FASTAPI_APP_IMPORT_STRING,
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            grace_period=self.grace_period,
        )
        self._rest_server.config.host = self._host
        self.servers = [self._rest_server.start()]
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.setup_event_loop()
        self.register_signal_handler()
        await self._serve()


def _add_route(model: ExplainerModel) -> None:
    async def explain(request: Request) -> dict[str, Any]:
        """Explain one listing: the body is V1's one instance, the answer V1's one prediction."""
        try:
            content = await request.json()
        except ValueError as error:
            raise InvalidInput("the body is not JSON") from error
        return await model.explain_one(content, dict(request.headers))

    path = f"/v2/models/{model.name}/explain"
    kserve_server.app.add_api_route(path, explain, methods=["POST"], tags=["V2"])
