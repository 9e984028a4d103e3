"""An upload as multipart/form-data: a part `listing` of JSON, `images` as they are, maybe a `submission_id`."""

from dataclasses import dataclass, field
from typing import Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from moderation.listing import MAX_IMAGES
from serving.errors import BadRequest

MEDIA_TYPE: Final = "multipart/form-data"

_LISTING: Final = "listing"
_IMAGES: Final = "images"
_SUBMISSION: Final = "submission_id"
_SHAPE: Final = "send one part `listing` (JSON), parts `images` (files), and a part `submission_id` if you have one"
_MAX_PARTS: Final = MAX_IMAGES + 2


@dataclass(frozen=True)
class Form:
    """The parts of an upload."""

    listing: bytes
    images: tuple[bytes, ...]
    submission_id: str | None


@dataclass
class _Parts:
    """What the parser has come to."""

    found: list[tuple[str, bytearray]] = field(default_factory=list)
    is_whole: bool = False
    header: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    name: str = ""

    def begin(self) -> None:
        if len(self.found) == _MAX_PARTS:
            raise BadRequest(f"the form has more than {_MAX_PARTS} parts; {_SHAPE}")
        self.name = ""

    def end_header(self) -> None:
        if self.header.lower() == b"content-disposition":
            kind, options = parse_options_header(bytes(self.value))
            if kind == b"form-data":
                self.name = options.get(b"name", b"").decode("utf-8", "replace")
        self.header.clear()
        self.value.clear()

    def end_headers(self) -> None:
        if self.name not in (_LISTING, _IMAGES, _SUBMISSION):
            raise BadRequest(f"part {self.name[:64]!r} is not known; {_SHAPE}")
        self.found.append((self.name, bytearray()))

    def end(self) -> None:
        self.is_whole = True


def parse_form(body: bytes, content_type: str) -> Form:
    """Return the parts of a form.

    Args:
        body: whole, its size already bounded.
        content_type: header with the boundary.

    Raises:
        BadRequest: if it is not such a form; the message says what to send.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadRequest("content-type: has no boundary; let your HTTP client write this header")
    parts = _Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": lambda data, begin, end: parts.header.extend(data[begin:end]),
                "on_header_value": lambda data, begin, end: parts.value.extend(data[begin:end]),
                "on_header_end": parts.end_header,
                "on_headers_finished": parts.end_headers,
                "on_part_data": lambda data, begin, end: parts.found[-1][1].extend(data[begin:end]),
                "on_end": parts.end,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise BadRequest(f"the body is no form: {error}; {_SHAPE}") from error
    if not parts.is_whole:
        raise BadRequest(f"the form breaks off; {_SHAPE}")
    return _form(parts.found)


def _form(found: list[tuple[str, bytearray]]) -> Form:
    listings = [bytes(data) for name, data in found if name == _LISTING]
    ids = [bytes(data).decode("utf-8", "replace") for name, data in found if name == _SUBMISSION]
    if len(listings) != 1 or len(ids) > 1:
        raise BadRequest(f"{_LISTING}: is there {len(listings)} times; {_SHAPE}")
    images = tuple(bytes(data) for name, data in found if name == _IMAGES)
    return Form(listings[0], images, ids[0] if ids else None)
