"""The engine `triton`: the towers of a bundle on a Triton server, asked over V2 gRPC with raw tensors.

B items, T tokens.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np

from moderation.engines.engine import Array, EngineName
from moderation.errors import ModelNotReady, PermanentError
from serving.openinference import MAX_MESSAGE_BYTES, SERVICE, add_input, messages, read_outputs

_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
]
_DIGITS: Final = 12
_PASSING: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_MASK: Final = "mask_BT"
_TOKENS_MULTIPLE: Final = 16
"""Triton batches requests of one shape alone: texts are padded to this, their padding masked."""


def model_name(folder: Path) -> str:
    """Return the name under which a tower is served: two releases may share a server, and equal towers one model."""
    digest = json.loads((folder / "tower.json").read_text())["digest"]
    return f"{folder.name}_{digest[:_DIGITS]}"


class TritonEngine:
    """One tower on a Triton server.

    Args:
        url: `grpc://host:port`.
        folder: of the tower in the bundle; its digest is part of the model's name.
        timeout_s: of one call.

    Raises:
        ModelNotReady: if the server cannot be reached, or does not serve this tower yet.
        PermanentError: if the model there is another one.
    """

    name: EngineName = "triton"

    def __init__(self, url: str, folder: Path, *, timeout_s: float) -> None:
        self._model = model_name(folder)
        self._url, self._timeout_s = url, timeout_s
        self._channel = grpc.insecure_channel(url.removeprefix("grpc://"), options=_OPTIONS)
        self._infer = self._call("ModelInfer", messages.ModelInferResponse)
        described = self._ask(
            self._call("ModelMetadata", messages.ModelMetadataResponse),
            messages.ModelMetadataRequest(name=self._model),
        )
        server = self._ask(
            self._call("ServerMetadata", messages.ServerMetadataResponse),
            messages.ServerMetadataRequest(),
        )
        self._outputs = {tensor.name for tensor in described.outputs}
        self.library = f"{server.name} {server.version}"
        self.machine = f"{described.platform} behind it"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the tower's outputs by name.

        Raises:
            ModelNotReady: if the server does not answer in time.
            PermanentError: if it refuses, or answers what the protocol does not allow.
        """
        request = messages.ModelInferRequest(model_name=self._model)
        for name, value in _padded(inputs).items():
            add_input(request, name, np.ascontiguousarray(value))
        response = self._ask(self._infer, request)
        try:
            outputs = read_outputs(response)
        except ValueError as error:
            raise PermanentError(f"{self._url}: {error}; is it a Triton server?") from error
        if set(outputs) != self._outputs:
            raise PermanentError(f"{self._url}: {self._model} gave {sorted(outputs)}")
        return outputs

    def _ask(self, call: Any, request: Any) -> Any:
        try:
            return call(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            said = f"Triton server {self._url}, model {self._model}: {error.details()}"
            if error.code() in _PASSING:
                raise ModelNotReady(f"{said}; start it, or wait until it has loaded") from error
            raise PermanentError(
                f"{said}; export the bundle's towers to its repository: `tidegate bundle export-triton`"
            ) from error

    def _call(self, name: str, response: Any) -> Any:
        return self._channel.unary_unary(
            f"{SERVICE}/{name}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=response.FromString,
        )


def _padded(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return texts padded to a common length, masked; images as they are."""
    if _MASK not in inputs:
        return inputs
    missing = -inputs[_MASK].shape[1] % _TOKENS_MULTIPLE
    return {name: np.pad(array, ((0, 0), (0, missing))) for name, array in inputs.items()}
