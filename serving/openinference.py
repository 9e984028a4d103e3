"""The Open Inference Protocol (V2) on the wire: its messages, and tensors to and from their raw bytes."""

import importlib.util
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

SERVICE: Final = "/inference.GRPCInferenceService"
MODEL_NAME: Final = "tidegate"
PREFILTER_MODEL_NAME: Final = "prefilter"

RELEASE_METADATA_KEY: Final = "tidegate-release-bin"
"""gRPC trailer of ModelMetadata that carries the release: its message has no field for it."""

RETRY_AFTER_METADATA_KEY: Final = "retry-after-ms"
"""gRPC trailer of RESOURCE_EXHAUSTED: milliseconds until there should be room."""

DTYPES: Final[dict[str, type[np.generic]]] = {
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}

# Eight images of 10 MiB and the text of one listing; a batch of ordinary photos is far below.
MAX_MESSAGE_BYTES: Final = 96 * 2**20

_MODULE: Final = "serving._openinference_messages"


PriorityName = Literal["upload", "rescan", "backfill"]
"""Of the request parameter `priority`: why a listing is scored, first to last."""


def _load_messages() -> ModuleType:
    """Return KServe's generated messages without importing KServe, which costs a client 4 s and 100 MB."""
    found = importlib.util.find_spec("kserve")
    if found is None or not found.submodule_search_locations:
        raise ImportError("kserve is not installed; install the extra `serve`")
    path = Path(found.submodule_search_locations[0], "protocol/grpc/grpc_predict_v2_pb2.py")
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is missing; install the version of kserve that the lock names")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    spec.loader.exec_module(module)
    return module


messages: Final[Any] = _load_messages()


def pack_bytes(elements: Sequence[bytes]) -> bytes:
    """Return the raw form of a BYTES tensor: each element behind its length, little-endian."""
    return b"".join(part for e in elements for part in (struct.pack("<I", len(e)), e))


def add_input(request: Any, name: str, value: Sequence[bytes] | npt.NDArray[Any]) -> None:
    """Add one raw tensor to a ModelInferRequest; a sequence of bytes is a BYTES tensor of one axis."""
    tensor = request.inputs.add()
    tensor.name = name
    if isinstance(value, np.ndarray):
        tensor.datatype = next(n for n, dtype in DTYPES.items() if value.dtype == dtype)
        tensor.shape.extend(value.shape)
        request.raw_input_contents.append(value.tobytes())
    else:
        tensor.datatype = "BYTES"
        tensor.shape.append(len(value))
        request.raw_input_contents.append(pack_bytes(value))


def read_bytes_output(response: Any, name: str) -> bytes:
    """Return the one element of a raw BYTES[1] tensor of a ModelInferResponse.

    Raises:
        ValueError: if the answer is not what the protocol says.
    """
    found = [(one.name, one.datatype, tuple(one.shape)) for one in response.outputs]
    if found != [(name, "BYTES", (1,))] or len(response.raw_output_contents) != 1:
        raise ValueError(f"the answer is not one raw BYTES[1] tensor {name}, but {found}")
    raw = response.raw_output_contents[0]
    element = raw[4:]
    if raw != pack_bytes([element]):
        raise ValueError(f"output {name} is cut short or has more than one element")
    return bytes(element)


def read_outputs(response: Any) -> dict[str, npt.NDArray[Any]]:
    """Return the raw numeric tensors of a ModelInferResponse by name.

    Raises:
        ValueError: if the answer is not what the protocol says.
    """
    if len(response.outputs) != len(response.raw_output_contents):
        raise ValueError("the answer does not carry raw tensors")
    tensors: dict[str, npt.NDArray[Any]] = {}
    for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        if tensor.datatype not in DTYPES:
            raise ValueError(f"output {tensor.name} has the unexpected type {tensor.datatype}")
        flat = np.frombuffer(raw, DTYPES[tensor.datatype])
        tensors[tensor.name] = flat.reshape(tuple(tensor.shape))
    return tensors
