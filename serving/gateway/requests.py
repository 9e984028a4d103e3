"""From the bytes of a request to a checked upload, truth or reversal; what is wrong names its field and the remedy."""

import asyncio
import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import Request
from PIL.Image import Image
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from moderation.errors import InvalidListing
from moderation.image import decode_view, strip
from moderation.listing import (
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    Identifier,
    Listing,
    ReversalReason,
    TruthSource,
    check_listing,
)
from serving.errors import BadRequest, BodyTooLarge, BodyTooSlow, WrongMediaType
from serving.gateway.multipart import MEDIA_TYPE, Form, parse_form

_JSON: Final = "application/json"

_BASE64_CHARS: Final = 4 * -(-MAX_IMAGE_BYTES // 3)

MAX_UPLOAD_BYTES: Final = MAX_IMAGES * _BASE64_CHARS + 2**20
"""All images in base64, and 1 MiB for the rest."""

_ADDRESS: Final = re.compile(r"\s*[a-z][a-z0-9+.\-]{0,15}:", re.IGNORECASE)
"""No base64 has a colon."""

UPLOAD_TYPES: Final = (_JSON, MEDIA_TYPE)
MAX_TRUTH_BYTES: Final = 2**16

_ModelT = TypeVar("_ModelT", bound=BaseModel)
_Read = tuple[bytes, Image]


class DecisionRequest(BaseModel):
    """One upload attempt of a listing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    submission_id: Identifier | None = None
    """Your id of this attempt: sent again with the same content, it gets the recorded decision again."""

    listing: dict[str, Any]
    images: Annotated[tuple[str, ...], Field(max_length=MAX_IMAGES)] = ()
    """JPEG, PNG, WebP or GIF in base64, at most 10 MiB each."""


class TruthRequest(BaseModel):
    """What a reviewer or an appeal established about a submission."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ground_truth_id: Identifier
    """Your id of this statement: sent again with the same content, it changes nothing."""

    submission_id: Identifier
    policy: Identifier
    violates: bool
    source: TruthSource = TruthSource.REVIEW
    reviewed_at: AwareDatetime | None = None
    """When it was established; now, if absent. It becomes known when it arrives."""

    propensity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Chance that this submission was chosen for review; 1 if absent. Of an audit of ours the ledger knows it: leave it
    out. An audit of your own must send it."""

    adjudicated: bool = False


class ReversalRequest(BaseModel):
    """An enforcement that was undone whole: the submission did not violate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reversal_id: Identifier
    """Your id of this reversal: sent again with the same content, it changes nothing."""

    submission_id: Identifier
    policy: Identifier | None = None
    """Every policy, if absent."""

    reason: ReversalReason
    reversed_at: AwareDatetime | None = None
    """When it was undone; now, if absent. It becomes known when it arrives."""


@dataclass(frozen=True)
class Upload:
    """A checked upload: every image decodes, and holds no metadata any more."""

    submission_id: str | None
    listing: Listing
    images: tuple[bytes, ...]
    views: tuple[Image, ...]
    """What stage 1 hashes of each image: small, and decoded once."""

    digests: dict[str, str]
    """SHA-256 of each input in hex: `listing` and `image.<index>`."""

    @property
    def image_digests(self) -> tuple[str, ...]:
        """The digests of the images, in their order."""
        return tuple(self.digests[f"image.{k}"] for k in range(len(self.images)))

    def inputs(self) -> dict[str, bytes]:
        """Return what is to be stored of it, named as in `digests`."""
        return _inputs(self.listing, self.images)


async def read_body(
    request: Request, max_bytes: int, body_s: float, media_types: Sequence[str] = (_JSON,)
) -> bytes:
    """Return the body, never holding more than `max_bytes`, nor waiting for it longer than `body_s` seconds.

    Raises:
        WrongMediaType: if it is of none of `media_types`.
        BodyTooLarge: as soon as that is certain.
        BodyTooSlow: if it is not there in time.
        ClientDisconnect: if the caller went away before its end.
    """
    media_type = media_type_of(request)
    if media_type not in media_types:
        wanted = " or ".join(media_types)
        raise WrongMediaType(f"{media_type[:64]!r} is not understood; send {wanted}")
    too_large = BodyTooLarge(f"the body is larger than {max_bytes} bytes; send fewer or smaller")
    if declared_bytes(request, 0) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
    except TimeoutError as error:
        raise BodyTooSlow(
            f"{len(body)} bytes of the body came in {body_s:g} s, and not its end; send it again, faster"
        ) from error
    return bytes(body)


def declared_bytes(request: Request, unknown: int) -> int:
    """Return how many bytes a request says that its body has; `unknown` where it says nothing."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdigit() else unknown


def media_type_of(request: Request) -> str:
    """Return the kind of body that a request says it has; JSON where it says nothing."""
    header: str = request.headers.get("content-type", _JSON)
    return header.partition(";")[0].strip().lower()


def parse_upload(body: bytes, content_type: str = _JSON) -> Upload:
    """Return the upload that a body describes: JSON, or a form with images as they are.

    Raises:
        BadRequest: if the body is not of the described shape.
        InvalidListing: naming the field that breaks a limit, or the image that does not decode.
    """
    if content_type.lower().startswith(MEDIA_TYPE):
        return _parse_form(parse_form(body, content_type))
    content = _json_object(body)
    _refuse_urls(content)
    envelope = _checked(content, DecisionRequest)
    listing = check_listing(envelope.listing)
    images = tuple(_image(text, f"images[{k}]") for k, text in enumerate(envelope.images))
    return _upload(envelope, listing, images)


def parse_truth(body: bytes) -> TruthRequest:
    """Return the ground truth that a JSON body states.

    Raises:
        BadRequest: if the body is not of the described shape.
    """
    return parse_model(body, TruthRequest)


def parse_reversal(body: bytes) -> ReversalRequest:
    """Return the reversal that a JSON body states.

    Raises:
        BadRequest: if the body is not of the described shape.
    """
    return parse_model(body, ReversalRequest)


def _parse_form(form: Form) -> Upload:
    named = {} if form.submission_id is None else {"submission_id": form.submission_id}
    envelope = _checked({"listing": _json_object(form.listing), **named}, DecisionRequest)
    if len(form.images) > MAX_IMAGES:
        raise BadRequest(f"images: there are {len(form.images)}; send at most {MAX_IMAGES}")
    images = tuple(_stripped(data, f"images[{k}]") for k, data in enumerate(form.images))
    return _upload(envelope, check_listing(envelope.listing), images)


def _upload(envelope: DecisionRequest, listing: Listing, images: Sequence[_Read]) -> Upload:
    data, views = (tuple(part) for part in zip(*images, strict=True)) if images else ((), ())
    inputs = _inputs(listing, data)
    digests = {name: hashlib.sha256(one).hexdigest() for name, one in inputs.items()}
    return Upload(envelope.submission_id, listing, data, views, digests)


def _inputs(listing: Listing, images: Sequence[bytes]) -> dict[str, bytes]:
    named = {f"image.{k}": data for k, data in enumerate(images)}
    return {"listing": listing_bytes(listing), **named}


def listing_bytes(listing: Listing) -> bytes:
    """Return a listing as canonical JSON: what is stored and named by its digest."""
    content = listing.model_dump(mode="json")
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _refuse_urls(content: dict[str, Any]) -> None:
    """Pass if no image is named by an address: fetching what a stranger names would reach whatever this process can."""
    images = content.get("images")
    named = [one for one in images if isinstance(one, str)] if isinstance(images, list) else []
    fields = [f"images[{k}]" for k, one in enumerate(named) if _ADDRESS.match(one)]
    fields += [field for field in ("image_url", "image_urls") if field in content]
    if fields:
        raise BadRequest(f"{fields[0]}: addresses are not fetched; send the image's bytes")


def parse_model(body: bytes, model: type[_ModelT]) -> _ModelT:
    """Return a statement whose values are of the types that JSON has for them: neither 0 nor "no" is false.

    Raises:
        BadRequest: if the body is not of that shape.
    """
    _json_object(body)
    return _validated(lambda: model.model_validate_json(body, strict=True))


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON (UTF-8, no NaN): {error}") from error
    if not isinstance(content, dict):
        raise BadRequest("the body must be a JSON object")
    return content


def _checked(content: dict[str, Any], model: type[_ModelT]) -> _ModelT:
    return _validated(lambda: model.model_validate(content))


def _validated(validate: Callable[[], _ModelT]) -> _ModelT:
    try:
        return validate()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part)[:64] for part in first["loc"]) or "body"
        raise BadRequest(f"{where}: {first['msg']}") from error


def _image(text: str, field: str) -> _Read:
    if len(text) > _BASE64_CHARS:
        raise InvalidListing(field, f"is larger than {MAX_IMAGE_BYTES} bytes; send a smaller one")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidListing(field, "is not base64; encode the file's bytes so") from error
    return _stripped(data, field)


def _stripped(data: bytes, field: str) -> _Read:
    if len(data) > MAX_IMAGE_BYTES:
        raise InvalidListing(field, f"is larger than {MAX_IMAGE_BYTES} bytes; send a smaller one")
    view = decode_view(data, field=field)
    return strip(data, field=field), view
