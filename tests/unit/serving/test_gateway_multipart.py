"""Uploads as multipart forms: images as they are, and every wrong form refused by name."""

import json
from contextlib import suppress
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moderation.listing import MAX_IMAGES
from serving.errors import BadRequest
from serving.gateway.gate import UploadGate
from serving.gateway.multipart import Form, parse_form
from tests.unit.serving.fakes import a_photo, an_upload

BOUNDARY = "b0undary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
LISTING = {"listing_id": "l1", "seller_id": "seller-1", "title": "Blue bicycle"}


def _part(name: str, data: bytes, more: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + data + b"\r\n"


def _body(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


async def _send(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    files: list[tuple[str, Any]] = [("listing", (None, json.dumps(LISTING), "application/json"))]
    files += [("images", ("a.jpg", image, "image/jpeg")) for image in fields.get("images", ())]
    if "submission_id" in fields:
        files.append(("submission_id", (None, fields["submission_id"], "text/plain")))
    return await client.post("/v1/decisions", files=files)


async def test_a_form_and_json_are_the_same_upload(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    photo = a_photo()
    first = await _send(client, images=[photo], submission_id="u1")
    assert first.status_code == 200, first.text
    again = await client.post("/v1/decisions", json=an_upload(submission_id="u1"))
    assert again.headers["Idempotent-Replay"] == "true"
    assert again.json()["decision_id"] == first.json()["decision_id"]


async def test_a_form_without_images_is_an_upload(client: httpx.AsyncClient) -> None:
    assert (await _send(client)).status_code == 200


async def test_an_image_that_does_not_decode_is_named(client: httpx.AsyncClient) -> None:
    refused = await _send(client, images=[a_photo(), b"no picture"])
    assert (refused.status_code, refused.json()["field"]) == (400, "images[1]")


async def test_too_many_images_are_refused(client: httpx.AsyncClient) -> None:
    refused = await _send(client, images=[a_photo()] * (MAX_IMAGES + 1))
    assert refused.status_code == 400
    assert f"send at most {MAX_IMAGES}" in refused.json()["message"]


async def test_the_form_is_documented(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    content = schema["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert content["multipart/form-data"]["schema"]["required"] == ["listing"]


def test_the_parts_are_what_was_sent() -> None:
    image = b"\x89PNG\r\n--b0undar\r\n\x00"
    body = _body(
        _part("listing", b"{}"),
        _part("images", image, '; filename="a.png"\r\nContent-Type: image/png'),
        _part("images", b""),
        _part("submission_id", b"u1"),
    )
    assert parse_form(body, TYPE) == Form(b"{}", (image, b""), "u1")


@pytest.mark.parametrize(
    ("body", "content_type", "named"),
    [
        (_body(_part("listing", b"{}")), "multipart/form-data", "has no boundary"),
        (_body(_part("images", b"x")), TYPE, "listing: is there 0 times"),
        (_body(_part("listing", b"{}"), _part("listing", b"{}")), TYPE, "is there 2 times"),
        (_body(_part("price", b"1")), TYPE, "part 'price' is not known"),
        (_body(_part("listing", b"{}"), end=b""), TYPE, "breaks off"),
        (_body(_part("listing", b"{}"), *[_part("images", b"x")] * 99), TYPE, "more than 10 parts"),
        (b"no form at all", TYPE, "no form"),
        (b"", TYPE, "breaks off"),
        (_body(_part("listing", b"{}")), f"multipart/form-data; boundary={'x' * 999}", "no form"),
        (
            _body(_part("listing", b"{}", "; " + "x" * 9_000)),
            TYPE,
            "no form",
        ),
    ],
)
def test_a_wrong_form_says_what_to_send(body: bytes, content_type: str, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        parse_form(body, content_type)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.binary(max_size=400), st.integers(0, 200))
def test_no_bytes_break_the_parser(noise: bytes, place: int) -> None:
    whole = _body(_part("listing", b"{}"), _part("images", b"\x00\r\n--"))
    for body in (noise, whole[:place] + noise + whole[place:], whole[:place] + noise):
        with suppress(BadRequest):
            form = parse_form(body, TYPE)
            assert len(form.images) <= MAX_IMAGES + 1
