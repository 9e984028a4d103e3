"""What a request can hold at most, told from counts and lengths before any of its elements is touched.

Making Python objects of tens of millions of numbers takes seconds in which the process answers nobody, on a thread too:
the interpreter runs one at a time. No request that is right has so many.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import Descriptor
from kserve.errors import InvalidInput

from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_IMAGES, MAX_TITLE_CHARS
from serving.openinference import messages

MAX_ITEMS: Final = 64
"""Listings of one request; more would hold a worker too long for the uploads behind it."""

_MAX_INPUTS: Final = 16
_MAX_OUTPUTS: Final = 64
_MAX_AXES: Final = 4
_OTHER_VALUES: Final = 20_000
"""Values beside texts: numbers of 64 listings, names, shapes and parameters are a few thousand."""

MAX_JSON_MARKS: Final = MAX_ITEMS * (MAX_TITLE_CHARS + MAX_DESCRIPTION_CHARS) + _OTHER_VALUES
"""Commas and opening brackets of a JSON body. Every one of its texts may consist of them; base64 has none."""

_COUNTED_TOGETHER: Final = 2**20
_MAX_PACKED_BYTES: Final = 2**20
_VARINT_BYTES: Final = 10


def element_bounds(features: Sequence[str]) -> dict[str, int]:
    """Return the most elements of each input of the model."""
    values = MAX_ITEMS * len(features)
    return {
        "title": MAX_ITEMS,
        "description": MAX_ITEMS,
        "images": MAX_ITEMS * MAX_IMAGES,
        "image_count": MAX_ITEMS,
        "behaviour": values,
        "behaviour_status": values,
    }


def check_marks(body: bytes | bytearray, end: int) -> None:
    """Refuse JSON that has more values than any right request.

    Args:
        body: as it came.
        end: where its JSON ends.

    Raises:
        InvalidInput: if it has.
    """
    num = 0
    for begin in range(0, end if end > MAX_JSON_MARKS else 0, _COUNTED_TOGETHER):
        stop = min(begin + _COUNTED_TOGETHER, end)
        num += sum(body.count(mark, begin, stop) for mark in (b",", b"[", b"{"))
        if num > MAX_JSON_MARKS:
            raise InvalidInput(
                f"the body has more than {MAX_JSON_MARKS} values; send fewer listings, numbers as raw tensors"
            )


def check_document(document: Any, bounds: Mapping[str, int]) -> None:
    """Refuse a parsed JSON body by the lengths of its lists; what is no request is left for its own check.

    Args:
        document: as JSON gave it.
        bounds: most elements by the name of the input.

    Raises:
        InvalidInput: naming the tensor.
    """
    if not isinstance(document, dict):
        return
    _check_numbers(_length(document.get("inputs")), _length(document.get("outputs")))
    for tensor in document.get("inputs") or ():
        if isinstance(tensor, dict):
            name, data = tensor.get("name"), tensor.get("data")
            _check_tensor(name, _length(tensor.get("shape")), _length(data), bounds)


def check_message(request: Any, bounds: Mapping[str, int]) -> None:
    """Refuse a ModelInferRequest by the lengths of its repeated fields.

    Args:
        request: the message.
        bounds: most elements by the name of the input.

    Raises:
        InvalidInput: naming the tensor.
    """
    _check_numbers(len(request.inputs), len(request.outputs))
    for tensor in request.inputs:
        num = _typed(tensor.contents) if tensor.HasField("contents") else 0
        _check_tensor(tensor.name, len(tensor.shape), num, bounds)


def check_wire(data: bytes) -> None:
    """Refuse a serialised ModelInferRequest that has more fields than any right request.

    protobuf takes 4 s for the 40 million empty texts that fit into one message, and says nothing before its end. What
    is no message is left for protobuf to refuse.

    Raises:
        InvalidInput: if it has.
    """
    if len(data) <= _OTHER_VALUES:
        return
    try:
        _Walk(data).visit(0, len(data), messages.ModelInferRequest.DESCRIPTOR)
    except IndexError:  # cut short
        return


class _Walk:
    """Counts fields of a message on the wire without taking them apart."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._num_fields = self._packed_bytes = 0

    def visit(self, place: int, end: int, kind: Descriptor) -> None:
        while place < end:
            tag, place = self._varint(place)
            field = kind.fields_by_number.get(tag >> 3)
            self._count(1, 0)
            match tag & 7:
                case 0:
                    _, place = self._varint(place)
                case 1:
                    place += 8
                case 2:
                    size, place = self._varint(place)
                    if field is not None and field.message_type is not None:
                        self.visit(place, min(place + size, end), field.message_type)
                    elif field is not None and field.type not in (
                        field.TYPE_STRING,
                        field.TYPE_BYTES,
                    ):
                        self._count(0, size)
                    place += size
                case 5:
                    place += 4
                case _:
                    raise InvalidInput("the message has groups; the protocol has none")

    def _count(self, fields: int, packed_bytes: int) -> None:
        self._num_fields += fields
        self._packed_bytes += packed_bytes
        if self._num_fields > _OTHER_VALUES or self._packed_bytes > _MAX_PACKED_BYTES:
            raise InvalidInput(
                f"the message has more than {_OTHER_VALUES} elements; send raw_input_contents, and fewer listings"
            )

    def _varint(self, place: int) -> tuple[int, int]:
        """Return the number at a place, and where it ends."""
        number = 0
        for n in range(_VARINT_BYTES):
            byte = self._data[place + n]
            number |= (byte & 0x7F) << 7 * n
            if byte < 0x80:
                return number, place + n + 1
        raise IndexError


def _typed(contents: Any) -> int:
    return sum(len(getattr(contents, one.name)) for one in contents.DESCRIPTOR.fields)


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _check_numbers(inputs: int, outputs: int) -> None:
    if inputs > _MAX_INPUTS:
        raise InvalidInput(f"the request has {inputs} inputs; send each once")
    if outputs > _MAX_OUTPUTS:
        raise InvalidInput(f"the request has {outputs} outputs; ask for each once")


def _check_tensor(name: Any, axes: int, elements: int, bounds: Mapping[str, int]) -> None:
    known = name if isinstance(name, str) else ""
    most = bounds.get(known, max(bounds.values()))
    if elements > most:
        raise InvalidInput(f'input "{known[:64]}" has {elements} elements; send at most {most}')
    if axes > _MAX_AXES:
        raise InvalidInput(
            f'input "{known[:64]}" has {axes} axes; send as many as its metadata says'
        )
