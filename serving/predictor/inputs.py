"""From the tensors of a V2 request to items to score; whatever is wrong names its tensor and the remedy."""

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from kserve import InferInput, InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import to_http_parameters

from moderation.decision import STATUS_CODES, SignalStatus
from moderation.listing import (
    MAX_DESCRIPTION_CHARS,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_TITLE_CHARS,
)
from moderation.scoring import ScoringItem
from serving.predictor.backlog import Priority
from serving.predictor.bounds import MAX_ITEMS
from serving.predictor.terms import Terms

DEADLINE_HEADER: Final = "x-deadline-ms"
"""Milliseconds that the caller still waits; a gRPC call's own deadline counts as well."""

_PRIORITIES: Final = {priority.name.lower(): priority for priority in Priority}
_TYPES: Final = {
    "title": "BYTES",
    "description": "BYTES",
    "images": "BYTES",
    "image_count": "INT32",
    "behaviour": "FP32",
    "behaviour_status": "INT8",
}
INPUTS: Final = tuple(_TYPES)
_MOST_ELEMENTS: Final = MAX_ITEMS * MAX_IMAGES
_DIGEST_CHARS: Final = 64
_ELEMENT: Final = (bytes, str)
_KINDS: Final[dict[str, type[np.generic]]] = {
    "INT32": np.int32,
    "INT8": np.int8,
    "FP32": np.float32,
}
_OK: Final = STATUS_CODES[SignalStatus.OK]
_MISSING: Final = STATUS_CODES[SignalStatus.MISSING]


def parse_items(request: InferRequest, features: Sequence[str]) -> list[ScoringItem]:
    """Return the N listings of a request.

    `title` is required and says how many there are; the others may be absent, which means missing. Images are raw
    bytes over gRPC and in REST's binary extension; in JSON they are base64.

    Raises:
        InvalidInput: naming the tensor and what to send instead.
    """
    tensors = _tensors(request)
    if "title" not in tensors:
        raise InvalidInput('input "title" is missing; send BYTES[N], an empty string for no title')
    titles = _texts(tensors["title"], MAX_TITLE_CHARS)
    num_items = len(titles)
    if not 1 <= num_items <= MAX_ITEMS:
        raise InvalidInput(f'input "title" has {num_items} items; send 1 to {MAX_ITEMS} a request')
    descriptions = [""] * num_items
    if "description" in tensors:
        descriptions = _texts(tensors["description"], MAX_DESCRIPTION_CHARS)
        _expect("description", len(descriptions) == num_items, f"shape [{num_items}], as title has")
    images = _images(tensors, num_items)
    behaviour_NF, status_NF = _behaviour(tensors, num_items, features)
    return [
        ScoringItem(
            title=titles[n],
            description=descriptions[n],
            images=images[n],
            behaviour=behaviour_NF[n],
            behaviour_status=status_NF[n],
        )
        for n in range(num_items)
    ]


def parse_terms(
    request: InferRequest, headers: Mapping[str, str], now_s: float, *, with_embeddings: bool
) -> Terms:
    """Return under what a request waits: its parameters `priority` and `deadline_ms`, and its header `x-deadline-ms`.

    Args:
        request: as it came.
        headers: in lower case; of a gRPC call, its metadata.
        now_s: when it came, on the queue's clock.
        with_embeddings: whether it asks for embeddings.

    Raises:
        InvalidInput: naming the parameter and what to send instead.
    """
    parameters = to_http_parameters(request.parameters or {})
    named = parameters.get("priority", Priority.UPLOAD.name.lower())
    if named not in _PRIORITIES:
        raise InvalidInput(
            f'parameter "priority" is {named!r}; send one of {", ".join(_PRIORITIES)}'
        )
    given = (parameters.get("deadline_ms"), headers.get(DEADLINE_HEADER))
    left_ms = min((_milliseconds(value) for value in given if value is not None), default=math.inf)
    return Terms(
        _PRIORITIES[named], now_s + left_ms / 1e3, sum(map(_size, request.inputs)), with_embeddings
    )


def _milliseconds(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not number >= 0:
        raise InvalidInput(f'"deadline_ms" or "{DEADLINE_HEADER}" is {value!r}; send milliseconds')
    return number


def _size(tensor: InferInput) -> int:
    """Return about how many bytes a tensor holds; numbers of JSON are small beside texts and images.

    Whoever made the request has bounded how many elements it has.
    """
    if tensor._raw_data is not None:
        return len(tensor._raw_data)
    return sum(map(_element_size, tensor.data or ()))


def _element_size(element: Any) -> int:
    if isinstance(element, _ELEMENT):
        return len(element)
    return 8 * len(element) if isinstance(element, list) else 8


def _expect(name: str, holds: bool, remedy: str) -> None:
    if not holds:
        raise InvalidInput(f'input "{name}": send {remedy}')


def parse_bundle(request: InferRequest) -> str:
    """Return the digest of the bundle that a request for its prefilter names.

    Raises:
        InvalidInput: if it names none.
    """
    tensors = [one for one in request.inputs if (one.name, one.datatype) == ("bundle", "BYTES")]
    digests = _texts(tensors[0], _DIGEST_CHARS) if len(tensors) == 1 else []
    if len(digests) != 1:
        raise InvalidInput('send one input, "bundle", BYTES[1]: the digest of the bundle')
    return digests[0]


def _tensors(request: InferRequest) -> dict[str, InferInput]:
    tensors: dict[str, InferInput] = {}
    for tensor in request.inputs:
        if tensor.name not in _TYPES:
            raise InvalidInput(f'input "{tensor.name}" is unknown; known are {", ".join(INPUTS)}')
        if tensor.name in tensors:
            raise InvalidInput(f'input "{tensor.name}" is there twice; send it once')
        expected = _TYPES[tensor.name]
        _expect(tensor.name, tensor.datatype == expected, f"{expected}, not {tensor.datatype}")
        tensors[tensor.name] = tensor
    return tensors


def _texts(tensor: InferInput, max_chars: int) -> list[str]:
    texts = []
    for n, element in enumerate(_elements(tensor)):
        try:
            text = element.decode("utf-8") if isinstance(element, bytes) else element
        except UnicodeDecodeError as error:
            raise InvalidInput(f'input "{tensor.name}"[{n}] is not UTF-8; encode it so') from error
        if len(text) > max_chars:
            raise InvalidInput(
                f'input "{tensor.name}"[{n}] has {len(text)} characters; send at most {max_chars}'
            )
        texts.append(text)
    return texts


def _images(tensors: dict[str, InferInput], num_items: int) -> list[tuple[bytes, ...]]:
    elements = _elements(tensors["images"]) if "images" in tensors else []
    if "image_count" not in tensors:
        _expect("image_count", not elements, f"INT32[{num_items}] beside images: 0 to {MAX_IMAGES}")
        return [()] * num_items
    counts = _numbers(tensors["image_count"], (num_items,)).astype(np.int64)
    inside = bool(((counts >= 0) & (counts <= MAX_IMAGES)).all())
    _expect("image_count", inside, f"0 to {MAX_IMAGES} for each listing, not {counts.tolist()}")
    total = int(counts.sum())
    _expect("images", len(elements) == total, f"shape [{total}], the sum of image_count")
    blobs = [_image(element, k) for k, element in enumerate(elements)]
    ends = np.cumsum(counts).tolist()
    sizes = counts.tolist()
    return [tuple(blobs[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def _image(element: bytes | str, k: int) -> bytes:
    try:
        is_json = isinstance(element, str)  # raw elements are bytes, over REST too
        data = base64.b64decode(element, validate=True) if is_json else element
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f'input "images"[{k}] is not base64; JSON carries it so') from error
    if not isinstance(data, bytes) or not 0 < len(data) <= MAX_IMAGE_BYTES:
        raise InvalidInput(
            f'input "images"[{k}] has {len(data)} bytes; send 1 to {MAX_IMAGE_BYTES}'
        )
    return data


def _behaviour(
    tensors: dict[str, InferInput], num_items: int, features: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Return behaviour_NF and its status; absent altogether means missing."""
    shape = (num_items, len(features))
    if "behaviour" not in tensors and "behaviour_status" not in tensors:
        return np.zeros(shape, np.float32), np.full(shape, _MISSING, np.int8)
    for name in ("behaviour", "behaviour_status"):
        _expect(name, name in tensors, f"it beside the other; features are {', '.join(features)}")
    behaviour_NF = _numbers(tensors["behaviour"], shape).astype(np.float32)
    status_NF = _numbers(tensors["behaviour_status"], shape).astype(np.int8)
    known = bool(np.isin(status_NF, list(STATUS_CODES.values())).all())
    _expect("behaviour_status", known, "0 (ok), 1 (missing) or 2 (error)")
    bad = np.argwhere(~np.isfinite(behaviour_NF))
    if len(bad):
        n, f = bad[0].tolist()
        raise InvalidInput(
            f'input "behaviour"[{n},{f}] ({features[f]}) is not finite; send 0 there and 1 in behaviour_status'
        )
    return np.where(status_NF == _OK, behaviour_NF, np.float32(0)), status_NF


def _elements(tensor: InferInput) -> list[Any]:
    """Return the elements of a BYTES tensor of one axis: bytes, or strings where JSON carried them."""
    raw = _raw(tensor, lambda data: data)
    elements = _split(raw, tensor) if isinstance(raw, bytes) else raw
    fits = len(tensor.shape) == 1 and tensor.shape[0] == len(elements)
    _expect(tensor.name, fits, f"one axis of as many as its elements, {len(elements)}")
    _expect(tensor.name, all(isinstance(e, _ELEMENT) for e in elements), "strings only")
    return elements


def _numbers(tensor: InferInput, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return a numeric tensor that has `shape`; integers are checked to be whole and to fit."""
    _expect(tensor.name, tuple(tensor.shape) == shape, f"shape {list(shape)}, not {tensor.shape}")
    kind = _KINDS[tensor.datatype]
    expected = int(np.prod(shape))
    values = _raw(tensor, lambda data: np.frombuffer(data, kind))
    _expect(tensor.name, len(values) == expected, f"{expected} values, not {len(values)}")
    if isinstance(values, list):
        of_type = int if issubclass(kind, np.integer) else (int, float)
        sound = all(isinstance(v, of_type) and not isinstance(v, bool) for v in values)
        _expect(tensor.name, sound, f"{tensor.datatype} numbers only")
    try:
        with np.errstate(
            over="ignore"
        ):  # what overflows is infinite, which is refused by its place
            array = np.asarray(values, kind).astype(np.float64)
    except (OverflowError, ValueError) as error:
        raise InvalidInput(f'input "{tensor.name}": a value does not fit its type') from error
    return array.reshape(shape)


def _raw(tensor: InferInput, read: Callable[[bytes], Any]) -> Any:
    """Return the tensor's raw bytes through `read`, or its JSON or typed contents as one flat list."""
    if tensor._raw_data is not None:
        try:
            return read(tensor._raw_data)
        except ValueError as error:
            raise InvalidInput(
                f'input "{tensor.name}": its raw bytes are no {tensor.datatype} tensor'
            ) from error
    return list(_flat(tensor.data or []))


def _flat(values: Sequence[Any]) -> list[Any]:
    """Return nested lists as one; V2 allows both, one level is all that these inputs have."""
    flat: list[Any] = []
    for value in values:
        flat.extend(value if isinstance(value, list) else [value])
    return flat


def _split(raw: bytes, tensor: InferInput) -> list[bytes]:
    """Return the elements of a raw tensor; no more of them than its shape says are even looked for."""
    elements: list[bytes] = []
    begin, name = 0, tensor.name
    most = tensor.shape[0] if len(tensor.shape) == 1 else 0
    _expect(name, most <= _MOST_ELEMENTS, f"at most {_MOST_ELEMENTS} elements, not {most}")
    while begin < len(raw):
        _expect(name, len(elements) < most, "one axis of as many as its elements, which are more")
        end = begin + 4
        length = struct.unpack_from("<I", raw, begin)[0] if end <= len(raw) else len(raw)
        if end + length > len(raw):
            raise InvalidInput(f'input "{name}": an element is longer than the raw bytes sent')
        elements.append(raw[end : end + length])
        begin = end + length
    return elements
