"""What callers send: uploads as JSON and as forms, truths, reversals, and tensors; read, or refused by name."""

import json
import math
import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from google.protobuf.message import DecodeError
from kserve import InferRequest
from kserve.errors import InvalidInput
from kserve.protocol.rest.v2_datamodels import InferenceRequest
from pydantic import ValidationError

from ledger.events import to_microseconds
from moderation.errors import InvalidListing
from moderation.features import FEATURE_NAMES
from moderation.listing import MAX_IMAGES, check_listing
from serving.errors import BadRequest
from serving.gateway.multipart import MEDIA_TYPE, parse_form
from serving.gateway.requests import parse_reversal, parse_truth, parse_upload
from serving.openinference import add_input, messages
from serving.predictor.bounds import MAX_ITEMS
from serving.predictor.inputs import parse_items
from tests.fuzz.images import photos
from tests.fuzz.mutations import of_bytes, of_json
from tests.fuzz.target import Target
from tests.unit.serving.fakes import an_upload

_LONGEST: Final = 2_000
"""Characters of a refusal: what a caller sent is not sent back whole."""

_BOUNDARY: Final = b"----f2z"


def _listing() -> dict[str, object]:
    return {
        "listing_id": "l1",
        "seller_id": "seller-1",
        "title": "Blue bicycle",
        "description": "Näkki 🚲",
        "price": 12.5,
        "currency": "EUR",
        "category": "sport",
        "region": "eu",
        "language": "de",
        "device_fingerprint": "d1",
        "address_fingerprint": None,
    }


def _uploads() -> list[bytes]:
    bodies = [
        an_upload(),
        an_upload(listing=_listing(), submission_id="s1"),
        {"listing": _listing()},
    ]
    return [json.dumps(body).encode() for body in bodies]


def check_upload(data: bytes) -> int:
    """Read an upload in JSON; what was read and is sent again is the same."""
    try:
        upload = parse_upload(data)
    except (BadRequest, InvalidListing) as error:
        assert len(str(error)) <= _LONGEST, "a refusal repeats what was sent"
        return len(data)
    assert len(upload.images) <= MAX_IMAGES
    listing = upload.listing
    assert listing.price is None or math.isfinite(listing.price)
    listing.model_dump_json().encode()
    assert check_listing(listing.model_dump(mode="json")) == listing
    sent = {"submission_id": upload.submission_id, "listing": listing.model_dump(mode="json")}
    again = parse_upload(json.dumps(sent).encode())
    assert (again.listing, again.submission_id) == (listing, upload.submission_id)
    return len(data)


def a_form(parts: Sequence[tuple[bytes, bytes]], boundary: bytes = _BOUNDARY) -> bytes:
    """Return parts, each a name and its bytes, as the body of a form."""
    body = b"".join(
        b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (boundary, name, data)
        for name, data in parts
    )
    return body + b"--%s--\r\n" % boundary


def _forms() -> list[bytes]:
    listing = json.dumps(_listing()).encode()
    parts = [(b"listing", listing), (b"submission_id", b"s1"), (b"images", photos()[2])]
    head = f"{MEDIA_TYPE}; boundary={_BOUNDARY.decode()}\n".encode()
    return [head + a_form(parts), head + a_form(parts[:1]), head + a_form([*parts, parts[2]])]


def check_form(data: bytes) -> int:
    """Read a form, its content type first; the parts that were read make the same form again."""
    head, _, body = data.partition(b"\n")
    content_type = head.decode("latin-1")
    try:
        form = parse_form(body, content_type)
    except BadRequest as error:
        assert len(str(error)) <= _LONGEST, "a refusal repeats what was sent"
        return len(data)
    named = [(b"images", image) for image in form.images] + [(b"listing", form.listing)]
    if form.submission_id is not None:
        named.append((b"submission_id", form.submission_id.encode()))
    if not any(_BOUNDARY in value for _, value in named):
        again = parse_form(a_form(named), f"{MEDIA_TYPE}; boundary={_BOUNDARY.decode()}")
        assert again == form, "a form is not read as it was written"
    try:
        parse_upload(body, content_type if content_type.startswith(MEDIA_TYPE) else MEDIA_TYPE)
    except (BadRequest, InvalidListing) as error:
        assert len(str(error)) <= _LONGEST, "a refusal repeats what was sent"
    return len(data)


def _statements() -> list[bytes]:
    truth = {
        "ground_truth_id": "t1",
        "submission_id": "s1",
        "policy": "weapons",
        "violates": True,
        "source": "audit",
        "reviewed_at": "2026-11-22T10:00:00+14:00",
        "propensity": 0.01,
        "adjudicated": False,
    }
    reversal = {
        "reversal_id": "r1",
        "submission_id": "s1",
        "policy": None,
        "reason": "appeal",
        "reversed_at": "2026-11-22T10:00:00Z",
    }
    return [json.dumps(one).encode() for one in (truth, reversal)]


def check_statement(data: bytes) -> int:
    """Read a truth and a reversal; what was read and is sent again is the same."""
    for parse in (parse_truth, parse_reversal):
        try:
            read = parse(data)
        except BadRequest as error:
            assert len(str(error)) <= _LONGEST, "a refusal repeats what was sent"
            continue
        assert parse(read.model_dump_json().encode()) == read
        for instant in (getattr(read, "reviewed_at", None), getattr(read, "reversed_at", None)):
            assert instant is None or isinstance(to_microseconds(instant), int)
    return len(data)


def _tensors() -> list[bytes]:
    num_features = len(FEATURE_NAMES)
    request = messages.ModelInferRequest(model_name="tidegate")
    add_input(request, "title", [b"one", "zwöi".encode()])
    add_input(request, "description", [b"", b"text"])
    add_input(request, "images", [b"\xff1", b"\xff2", b"\xff3"])
    add_input(request, "image_count", np.array([1, 2], np.int32))
    add_input(request, "behaviour", np.zeros((2, num_features), np.float32))
    add_input(request, "behaviour_status", np.zeros((2, num_features), np.int8))
    inputs = [
        {"name": "title", "datatype": "BYTES", "shape": [2], "data": ["one", "zwöi"]},
        {"name": "images", "datatype": "BYTES", "shape": [1], "data": ["/zE="]},
        {"name": "image_count", "datatype": "INT32", "shape": [2], "data": [1, 0]},
        {
            "name": "behaviour",
            "datatype": "FP32",
            "shape": [2, num_features],
            "data": [0.5] * 2 * num_features,
        },
        {
            "name": "behaviour_status",
            "datatype": "INT8",
            "shape": [2, num_features],
            "data": [[0] * num_features] * 2,
        },
    ]
    found: bytes = request.SerializeToString()
    return [
        found,
        json.dumps({"inputs": inputs}).encode(),
        json.dumps({"inputs": inputs[:1]}).encode(),
    ]


def check_tensors(data: bytes) -> int:
    """Read the tensors of a request, in JSON or over gRPC."""
    request = _request(data)
    if request is None:
        return len(data)
    try:
        items = parse_items(request, FEATURE_NAMES)
    except InvalidInput as error:
        assert len(str(error)) <= _LONGEST, "a refusal repeats what was sent"
        return len(data)
    assert 1 <= len(items) <= MAX_ITEMS
    for item in items:
        item.title.encode("utf-8", "surrogatepass")
        assert np.isfinite(np.asarray(item.behaviour)).all()
        assert len(item.images) <= MAX_IMAGES
        assert all(isinstance(image, bytes) for image in item.images)
    return len(data)


def _request(data: bytes) -> InferRequest | None:
    """Return the request that KServe makes of bytes, or None where it refuses them itself."""
    if data.startswith(b"{"):
        try:
            body = InferenceRequest.model_validate_json(data)
            return InferRequest.from_inference_request(body, "tidegate")
        except (ValidationError, InvalidInput):
            return None
    try:
        return InferRequest.from_grpc(messages.ModelInferRequest.FromString(data))
    except (DecodeError, InvalidInput, IndexError):
        return None


def _mutate_tensors(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return (of_json if rng.random() < 0.6 else of_bytes)(rng, seeds)


_GATEWAY: Final = ("serving.gateway.requests", "serving.gateway.multipart", "moderation.listing")

REQUESTS: Final = (
    Target("upload", _uploads, of_json, check_upload, 8, 60, 20, "bytes", 200, _GATEWAY),
    Target("form", _forms, of_bytes, check_form, 8, 60, 20, "bytes", 200, _GATEWAY),
    Target("statement", _statements, of_json, check_statement, 8, 15, 20, "bytes", 60, _GATEWAY),
    Target(
        "tensors",
        _tensors,
        _mutate_tensors,
        check_tensors,
        8,
        15,
        20,
        "bytes",
        120,
        ("serving.predictor.inputs",),
    ),
)
