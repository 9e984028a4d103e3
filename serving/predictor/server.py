"""KServe's model server with what it lacks: the release in the metadata, a chosen address, no stolen ports.

On SIGTERM KServe's own stays ready, goes on taking requests over gRPC until the last one over REST is answered, and
knows of no queue. Here a signal makes it unready at once; what comes is refused while what was let in is answered;
then both sides close.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import kserve.model_server as kserve_server
import uvicorn
from google.protobuf.message import DecodeError
from grpc import HandlerCallDetails, StatusCode, aio, unary_unary_rpc_method_handler
from kserve import InferRequest, Model
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.rest.server import RESTServer

from moderation.errors import PermanentError
from serving.openinference import (
    MAX_MESSAGE_BYTES,
    RELEASE_METADATA_KEY,
    RETRY_AFTER_METADATA_KEY,
    SERVICE,
    messages,
)
from serving.predictor.bounds import check_message, check_wire, element_bounds
from serving.predictor.inputs import DEADLINE_HEADER
from serving.predictor.intake import counted
from serving.predictor.model import INLINE_BYTES, TidegateModel
from serving.predictor.others import OtherRoutes
from serving.predictor.prefilter import PrefilterModel
from serving.predictor.queue import Overloaded, TooLate
from serving.predictor.rest import RestInference

_LOG = logging.getLogger(__name__)

# Seconds for answers to be sent, once the queue has given all of them.
_GRACE_S: Final = 5
_PREFILTER_BOUNDS: Final = {"bundle": 1}
_NO_REPOSITORY: Final = "a predictor serves one bundle: start another one with another bundle"


class PredictorServer(kserve_server.ModelServer):  # type: ignore[misc]  # KServe ships no types
    """Serve one model, and its prefilter, over REST and gRPC on one address.

    KServe's own server binds every interface, lets a second process share its gRPC port without a word, takes
    messages up to 8 MiB, and drops what the metadata says beyond its five fields.

    Args:
        model: the loaded model.
        prefilter: of the same bundle, if it has one.
        host: address to listen on.
        http_port: port of the REST side.
        grpc_port: port of the gRPC side.
    """

    def __init__(
        self,
        model: TidegateModel,
        prefilter: PrefilterModel | None = None,
        *,
        host: str,
        http_port: int,
        grpc_port: int,
    ) -> None:
        super().__init__(
            http_port=http_port,
            grpc_port=grpc_port,
            workers=1,
            enable_latency_logging=False,
            grace_period=_GRACE_S,
        )
        self._model = model
        self._prefilter = prefilter
        self._host = host
        self.dataplane = _DataPlane(self.registered_models, model)

    def serve(self) -> None:
        """Serve until a signal stops the process; what was let in is answered first, within the contract's bound."""
        self._register_and_check_atleast_one_model_is_ready(
            [self._model] if self._prefilter is None else [self._model, self._prefilter]
        )
        _add_metadata_routes(self._model)
        self._rest_server = _RestServer(
            kserve_server.FASTAPI_APP_IMPORT_STRING,
            self.dataplane,
            self.model_repository_extension,
            self.http_port,
            grace_period=self.grace_period,
        )
        self._rest_server.create_application()
        config = self._rest_server.config
        config.host, config.proxy_headers = self._host, False
        config.app = RestInference(self._model, OtherRoutes(kserve_server.app, self._model.intake))
        self._http_server = _HttpServer(self._rest_server.config)
        self._grpc_server = _GrpcServer(
            _Servicer(
                self.dataplane, self.model_repository_extension, self._model, self._prefilter
            ),
            f"{self._host}:{self.grpc_port}",
            self.grace_period,
            self._model.intake.max_calls,
        )
        with asyncio.Runner(loop_factory=self._rest_server.config.get_loop_factory()) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self.setup_event_loop()
        signalled = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
            asyncio.get_running_loop().add_signal_handler(sign, signalled.set)
        serving = asyncio.gather(self._http_server.serve(), self._grpc_server.start())
        # Whatever ends the servers before a signal ends the wait for one.
        serving.add_done_callback(lambda _: signalled.set())
        await signalled.wait()
        if not serving.done():
            await self._stop()
        await serving
        self._model.queue.close()

    async def _stop(self) -> None:
        """Answer what was let in while the ports are still open, so that who asks is refused and not cut off."""
        self._model.ready = False
        num_refused = await self._model.queue.drain()
        _LOG.info("stopping", extra={"refused": num_refused})
        self._http_server.should_exit = True
        await self._grpc_server.stop()


class _DataPlane(DataPlane):  # type: ignore[misc]  # KServe ships no types
    """KServe's own says that the server is ready whatever its models say."""

    def __init__(self, registry: Any, model: TidegateModel) -> None:
        super().__init__(model_registry=registry)
        self._model = model

    async def ready(self) -> bool:
        """Return whether the model takes requests."""
        return bool(self._model.ready)

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata with the extensions that are there: KServe's own names one that is closed."""
        return dict(super().metadata(), extensions=["binary_tensor_data"])


class _RestServer(RESTServer):  # type: ignore[misc]  # KServe ships no types
    """KServe's own calls `getrusage` twice a request, for a line of a log that is off."""

    def _add_middlewares(self, app: Any) -> None:
        """Add none: what a request takes is in our own metrics and traces."""


class _HttpServer(uvicorn.Server):
    """Leaves signals to the predictor: uvicorn's own handling closes the port before the queue is empty."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take none."""
        yield


class _GrpcServer:
    def __init__(
        self, servicer: InferenceServicer, address: str, grace_s: float, max_calls: int
    ) -> None:
        self._servicer = servicer
        self._max_calls = max_calls
        self._address = address
        self._grace_s = grace_s
        self._server: Any = None

    async def start(self) -> None:
        self._server = aio.server(
            ThreadPoolExecutor(1),
            interceptors=(_Errors(), _Unparsed()),
            maximum_concurrent_rpcs=self._max_calls,
            options=[
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        services.add_GRPCInferenceServiceServicer_to_server(self._servicer, self._server)
        try:
            self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise PermanentError(f"{self._address}: cannot be bound: {error}") from error
        await self._server.start()
        await self._server.wait_for_termination()

    async def stop(self, sig: int | None = None) -> None:
        await self._server.stop(grace=self._grace_s)


class _Servicer(InferenceServicer):  # type: ignore[misc]  # KServe ships no types
    def __init__(
        self,
        data_plane: Any,
        repository: Any,
        model: TidegateModel,
        prefilter: PrefilterModel | None,
    ) -> None:
        super().__init__(data_plane, repository)
        self._model = model
        self._bounds = element_bounds(model.release.features)
        self._models = {one.name: one for one in (model, prefilter) if one is not None}

    async def ModelInfer(self, request: bytes, context: Any) -> Any:  # the protocol's name
        """Answer one request, as it came on the wire; a caller that goes away takes it out of the queue."""
        with self._model.intake.hold() as holding:
            with counted():
                holding.take(len(request))
                if len(request) > INLINE_BYTES:
                    self._model.queue.check_unread(len(request))
                    model, asked = await asyncio.to_thread(self._parsed, request)
                else:
                    model, asked = self._parsed(request)
            headers = dict(context.invocation_metadata() or ())
            left_s = context.time_remaining()
            if left_s is not None:
                given_ms = headers.get(DEADLINE_HEADER, "inf")
                headers[DEADLINE_HEADER] = _earlier(given_ms, left_s * 1e3)
            response = await model.predict(asked, headers)
            return response.to_grpc()

    def _parsed(self, data: bytes) -> tuple[Model, InferRequest]:
        """Return the model that a message is for, and the request in it.

        Raises:
            InvalidInput: if it is none, or beyond what the model takes.
            ModelNotFound: if the model is not here.
        """
        check_wire(data)
        try:
            request = messages.ModelInferRequest.FromString(data)
        except DecodeError as error:
            raise InvalidInput("the message is no ModelInferRequest") from error
        self.validate_grpc_request(request)
        model = self._models.get(request.model_name)
        if model is None or request.model_version not in ("", self._model.release.bundle):
            raise ModelNotFound(f"{request.model_name} {request.model_version}".strip())
        is_prefilter = model is not self._model
        check_message(request, _PREFILTER_BOUNDS if is_prefilter else self._bounds)
        return model, InferRequest.from_grpc(request)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # the protocol's name
        """Return the protocol's metadata; the release comes as a trailer, the message has no field for it."""
        described = await self._data_plane.model_metadata(model_name=request.name)
        context.set_trailing_metadata(((RELEASE_METADATA_KEY, self._model.release.to_bytes()),))
        return messages.ModelMetadataResponse(
            name=described["name"],
            versions=[self._model.release.bundle],
            platform="tidegate_bundle",
            inputs=described["inputs"],
            outputs=described["outputs"],
        )

    async def RepositoryModelLoad(self, request: Any, context: Any) -> Any:  # the protocol's name
        """Refuse: a predictor serves the bundle that it was started with."""
        raise NotImplementedError(_NO_REPOSITORY)

    async def RepositoryModelUnload(self, request: Any, context: Any) -> Any:  # the protocol's name
        """Refuse: one anonymous call would end the answers to all others."""
        raise NotImplementedError(_NO_REPOSITORY)


def _earlier(given_ms: str, left_ms: float) -> str:
    """Return the earlier deadline; what is no number is left for the request's own check."""
    try:
        return str(min(float(given_ms), max(left_ms, 0.0)))
    except ValueError:
        return given_ms


class _Errors(ExceptionToStatusInterceptor):  # type: ignore[misc]  # KServe ships no types
    """KServe's table of errors, and what the queue says."""

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> None:
        """End the call with the status of its error."""
        if isinstance(ex, Overloaded):
            trailer = ((RETRY_AFTER_METADATA_KEY, str(round(ex.delay_s * 1e3))),)
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, str(ex), trailer)
        if isinstance(ex, TooLate):
            await context.abort(StatusCode.DEADLINE_EXCEEDED, str(ex))
        if isinstance(ex, NotImplementedError):  # KServe's own fails on it
            await context.abort(StatusCode.UNIMPLEMENTED, str(ex))
        await super().handle_exception(ex, request_or_iterator, context, method_name)


class _Unparsed(aio.ServerInterceptor):  # type: ignore[misc]  # grpc ships no types
    """Hands out the messages of ModelInfer as they came: gRPC parses on the event loop, whatever they hold."""

    async def intercept_service(
        self, continuation: Callable[[HandlerCallDetails], Awaitable[Any]], details: Any
    ) -> Any:
        """Return the handler of a call, without its parser."""
        handler = await continuation(details)
        if handler is None or details.method != f"{SERVICE}/ModelInfer":
            return handler
        return unary_unary_rpc_method_handler(
            handler.unary_unary, response_serializer=handler.response_serializer
        )


def _add_metadata_routes(model: TidegateModel) -> None:
    """Put our routes before KServe's: metadata with `parameters`, which it drops, and versions, which it has not."""
    app = kserve_server.app

    async def describe() -> dict[str, Any]:
        return {
            "name": model.name,
            "versions": [model.release.bundle],
            "platform": "tidegate_bundle",
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
            "parameters": model.release.model_dump(mode="json"),
        }

    async def describe_version(version: str) -> dict[str, Any]:
        check(version)
        return await describe()

    async def tell_ready(version: str) -> dict[str, Any]:
        check(version)
        if not model.ready:
            raise ModelNotReady(model.name)
        return {"name": model.name, "ready": True}

    def check(version: str) -> None:
        if version != model.release.bundle:
            raise ModelNotFound(f"{model.name} in version {version}")

    path = f"/v2/models/{model.name}"
    routes = {
        path: describe,
        f"{path}/versions/{{version}}": describe_version,
        f"{path}/versions/{{version}}/ready": tell_ready,
    }
    for place, endpoint in routes.items():
        app.add_api_route(place, endpoint, methods=["GET"], tags=["V2"])
