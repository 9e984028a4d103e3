"""Requests that hold far more than any right one: refused by counts, before their elements become objects."""

from collections.abc import Callable
from typing import Any

import orjson
import pytest
from kserve.errors import InvalidInput

from moderation.features import FEATURE_NAMES
from serving.openinference import add_input, messages
from serving.predictor.bounds import (
    MAX_ITEMS,
    MAX_JSON_MARKS,
    check_document,
    check_marks,
    check_message,
    check_wire,
    element_bounds,
)

BOUNDS = element_bounds(FEATURE_NAMES)
F = len(FEATURE_NAMES)
Change = Callable[[Any], object]


def _document(name: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    tensor = {"name": name, "shape": shape or [len(data)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (_document("title", [""] * 65), '"title" has 65 elements; send at most 64'),
        (_document("images", [""] * 513), '"images" has 513 elements; send at most 512'),
        (_document("image_count", [1] * 65), '"image_count" has 65 elements'),
        (_document("behaviour", [0] * (64 * F + 1)), f"send at most {64 * F}"),
        (_document("surprise", [0] * 10**5), '"surprise" has 100000 elements'),
        (_document("title", [""], [1] * 1000), '"title" has 1000 axes'),
        ({"inputs": [{}] * 1000}, "has 1000 inputs"),
        ({"inputs": [], "outputs": [{}] * 1000}, "has 1000 outputs"),
    ],
)
def test_json_is_refused_by_the_length_of_its_lists(document: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_document(document, BOUNDS)


@pytest.mark.parametrize(
    "document", [None, [], {}, {"inputs": [1]}, {"inputs": [{"name": [], "data": {}}]}]
)
def test_json_that_is_no_request_is_left_for_its_own_check(document: Any) -> None:
    check_document(document, BOUNDS)


def test_a_body_of_only_numbers_is_refused_unparsed() -> None:
    body = b'{"inputs": [{"data": [' + b"1," * MAX_JSON_MARKS
    for marks in (body, b"[" * (MAX_JSON_MARKS + 1), bytearray(body)):
        with pytest.raises(InvalidInput, match="values; send fewer listings"):
            check_marks(marks, len(marks))
    check_marks(body, 100)


def test_the_largest_right_request_passes() -> None:
    texts = ["," * 20_000] * MAX_ITEMS
    document = {
        "inputs": [
            *_document("title", ["[" * 300] * MAX_ITEMS)["inputs"],
            *_document("description", texts)["inputs"],
            *_document("images", ["A"] * 512)["inputs"],
            *_document("image_count", [8] * MAX_ITEMS)["inputs"],
            *_document("behaviour", [[0.5] * F] * MAX_ITEMS, [MAX_ITEMS, F])["inputs"],
            *_document("behaviour_status", [0] * (MAX_ITEMS * F), [MAX_ITEMS, F])["inputs"],
        ]
    }
    body = orjson.dumps(document)
    check_marks(body, len(body))
    check_document(orjson.loads(body), BOUNDS)


def _typed(field: str, values: Any, name: str = "title") -> Any:
    request = messages.ModelInferRequest(model_name="tidegate")
    tensor = request.inputs.add()
    tensor.name = name
    getattr(tensor.contents, field).extend(values)
    return request


def _add(change: Change) -> Any:
    request = messages.ModelInferRequest(model_name="tidegate")
    change(request)
    return request


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (_typed("int_contents", [1] * 65, "image_count"), '"image_count" has 65 elements'),
        (_typed("bytes_contents", [b""] * 65), '"title" has 65 elements'),
        (_add(lambda r: [r.inputs.add() for _ in range(17)]), "has 17 inputs"),
        (_add(lambda r: [r.outputs.add() for _ in range(65)]), "has 65 outputs"),
        (_add(lambda r: r.inputs.add().shape.extend([1] * 9)), "has 9 axes"),
    ],
)
def test_a_message_is_refused_by_the_length_of_its_fields(request_: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_message(request_, BOUNDS)


@pytest.mark.parametrize(
    "request_",
    [
        _typed("int_contents", [1] * (2**20 + 1)),
        _typed("fp32_contents", [1.0] * 2**19),
        _typed("bytes_contents", [b""] * 20_001),
        _add(lambda r: [r.inputs.add() for _ in range(20_001)]),
        _add(lambda r: r.inputs.add().shape.extend([1] * (2**20 + 1))),
        _add(lambda r: r.raw_input_contents.extend([b""] * 20_001)),
        _add(lambda r: [r.parameters[str(n)] for n in range(20_001)]),
    ],
)
def test_a_message_is_refused_on_the_wire(request_: Any) -> None:
    with pytest.raises(InvalidInput, match="elements; send raw_input_contents"):
        check_wire(request_.SerializeToString())


def test_numbers_that_come_one_by_one_are_refused_on_the_wire() -> None:
    contents = b"\x10\x01" * 20_001  # int_contents, not packed
    tensor = b"\x2a" + _varint(len(contents)) + contents
    with pytest.raises(InvalidInput, match="elements"):
        check_wire(b"\x2a" + _varint(len(tensor)) + tensor)


def _varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14])


def test_right_messages_and_no_messages_pass_on_the_wire() -> None:
    request = messages.ModelInferRequest(model_name="tidegate")
    add_input(request, "title", [b"x" * 300] * MAX_ITEMS)
    add_input(request, "images", [b"\xff" * 10_000] * 512)
    check_wire(request.SerializeToString())
    check_message(request, BOUNDS)
    check_wire(_typed("fp32_contents", [1.0] * (MAX_ITEMS * F)).SerializeToString())
    check_wire(b"\x3a\xff\xff\xff\xff\x0f" + b"x" * 30_000)  # longer than it is
    check_wire(b"\x3a" + b"\xff" * 30_000)  # no number
    with pytest.raises(InvalidInput, match="groups"):
        check_wire(b"\x0b" * 30_000)
