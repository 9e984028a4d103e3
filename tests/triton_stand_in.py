"""What stands in for a Triton server: V2 gRPC over an exported model repository, the graphs run by ONNX Runtime.

It reads `config.pbtxt` by Triton's own protobuf and checks each request against it. It does not batch.
"""

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format

from serving.openinference import DTYPES, SERVICE, add_input, messages

_TYPES: Final = {"TYPE_FP32": "FP32", "TYPE_INT64": "INT64"}
NAME: Final = "stand-in"


def model_config(folder: Path) -> Any:
    """Return a model's configuration, parsed by Triton's own protobuf, which refuses unknown fields."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), _messages().ModelConfig())


def _messages() -> Any:
    """Return Triton's messages; the package beside them registers others under the names of KServe's."""
    name = "tests._triton_messages"
    if name not in sys.modules:
        package = importlib.util.find_spec("tritonclient")
        assert package is not None
        assert package.submodule_search_locations
        path = Path(package.submodule_search_locations[0], "grpc", "model_config_pb2.py")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


class _Model:
    def __init__(self, folder: Path) -> None:
        self.config = model_config(folder)
        version = self.config.version_policy.specific.versions[0]
        self._session = onnxruntime.InferenceSession(str(folder / str(version) / "model.onnx"))
        kinds = self.config.DESCRIPTOR.fields_by_name["input"].message_type.fields_by_name
        self._names = kinds["data_type"].enum_type.values_by_number

    def describe(self) -> Any:
        answer = messages.ModelMetadataResponse(name=self.config.name, platform="onnxruntime_onnx")
        for ours, theirs in (
            (answer.inputs, self.config.input),
            (answer.outputs, self.config.output),
        ):
            for tensor in theirs:
                kind = self.kind(tensor)
                ours.add(name=tensor.name, datatype=kind, shape=[-1, *tensor.dims])
        return answer

    def kind(self, tensor: Any) -> str:
        return _TYPES[self._names[tensor.data_type].name]

    def infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        wanted = {tensor.name: tensor for tensor in self.config.input}
        feed = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            said = wanted.pop(tensor.name, None)
            if said is None or tensor.datatype != self.kind(said) or not _fits(tensor, said):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"input {tensor.name} is wrong")
            if tensor.shape[0] > self.config.max_batch_size:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "batch size above the maximum")
            flat = np.frombuffer(raw, DTYPES[tensor.datatype])
            feed[tensor.name] = flat.reshape(tuple(tensor.shape))
        outputs = [tensor.name for tensor in self.config.output]
        answer = messages.ModelInferResponse(model_name=self.config.name)
        carrier = messages.ModelInferRequest()
        for name, value in zip(outputs, self._session.run(outputs, feed), strict=True):
            add_input(carrier, name, value)
        for tensor in carrier.inputs:
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.extend(carrier.raw_input_contents)
        return answer


def _fits(tensor: Any, said: Any) -> bool:
    shape = tuple(tensor.shape)[1:]
    pairs = zip(shape, said.dims, strict=False)
    return len(shape) == len(said.dims) and all(wants in (-1, has) for has, wants in pairs)


class _Server:
    def __init__(self, repository: Path) -> None:
        self._models = {path.name: _Model(path) for path in repository.iterdir()}
        self.shapes: list[tuple[int, ...]] = []
        """Of the first input of every request."""

    def infer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.shapes.append(tuple(request.inputs[0].shape))
        return self._model(request.model_name, context).infer(request, context)

    def describe(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._model(request.name, context).describe()

    def name(self, request: Any, context: grpc.ServicerContext) -> Any:
        return messages.ServerMetadataResponse(name=NAME, version="1")

    def _model(self, name: str, context: grpc.ServicerContext) -> _Model:
        if name not in self._models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model {name}")
        return self._models[name]


@contextmanager
def triton_stand_in(repository: Path) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Serve a model repository on a free port; give its url and the shapes that were asked for."""
    serving = _Server(repository)
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        "ModelInfer": (serving.infer, messages.ModelInferRequest),
        "ModelMetadata": (serving.describe, messages.ModelMetadataRequest),
        "ServerMetadata": (serving.name, messages.ServerMetadataRequest),
    }
    calls = {
        name: grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request.FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
        for name, (call, request) in handlers.items()
    }
    service = SERVICE.removeprefix("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, calls),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", serving.shapes
    finally:
        server.stop(grace=None).wait()
