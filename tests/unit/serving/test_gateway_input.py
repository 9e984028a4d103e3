import io
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.gateway.gate import UploadGate
from serving.gateway.requests import MAX_UPLOAD_BYTES
from tests.unit.serving.fakes import FakePredictor, a_photo, an_upload, as_text

LISTING: dict[str, Any] = {"listing_id": "l1", "title": "Blue bicycle"}


def _animation() -> bytes:
    frames = [Image.new("P", (20, 20), n) for n in range(5)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _bomb() -> bytes:
    """Return a small file of 100 megapixels."""
    return a_photo("PNG", (10_000, 10_000))


async def _send(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/v1/decisions", json=an_upload(**changes))


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", a_photo()[:-200], a_photo()[:20], _bomb(), b"<svg/>", a_photo("BMP")],
    ids=["empty", "text", "truncated", "header", "bomb", "svg", "bmp"],
)
async def test_image_is_refused_by_name_when_unusable(
    client: httpx.AsyncClient, gate: UploadGate, data: bytes
) -> None:
    response = await _send(client, images=[as_text(a_photo()), as_text(data)])
    assert response.status_code == 400
    assert response.json()["field"] == "images[1]"
    assert list(gate.ledger.read()) == [], "a refused upload leaves nothing behind"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
async def test_image_is_taken_when_of_a_known_format(client: httpx.AsyncClient, kind: str) -> None:
    assert (await _send(client, images=[as_text(a_photo(kind))])).status_code == 200


async def test_animation_is_judged_by_its_first_frame(client: httpx.AsyncClient) -> None:
    assert (await _send(client, images=[as_text(_animation())])).status_code == 200


async def test_image_loses_its_metadata_when_stored(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    exif = Image.Exif()
    exif[0x010E] = "at home, 12 Secret Street"
    data = a_photo(exif=exif)
    assert b"Secret Street" in data
    answer = (await _send(client, images=[as_text(data)])).json()
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    stored = gate.store.get(decision.input_digests["image.0"])
    assert b"Secret Street" not in stored
    assert stored in predictor.requests[0].raw_input_contents[2]


@pytest.mark.parametrize(
    ("listing", "field"),
    [
        ({}, "listing_id"),
        ({"listing_id": "../etc"}, "listing_id"),
        ({"title": "x" * 301}, "title"),
        ({"description": "x" * 1_000_000}, "description"),
        ({"title": "nul \x00"}, "title"),
        ({"title": 7}, "title"),
        ({"price": "cheap"}, "price"),
        ({"price": -1}, "price"),
        ({"price": 1e300}, "price"),
        ({"currency": "DOGE"}, "currency"),
        ({"seller_id": ["a"]}, "seller_id"),
        ({"surprise": 1}, "surprise"),
    ],
)
async def test_listing_is_refused_by_field_when_wrong(
    client: httpx.AsyncClient, listing: dict[str, Any], field: str
) -> None:
    response = await _send(client, listing=LISTING | listing if listing else {})
    assert response.status_code == 400
    assert response.json()["field"] == field
    assert len(response.content) < 1_000, "an error does not echo a megabyte"


@pytest.mark.parametrize(
    "changes",
    [
        {"images": []},
        {"listing": {"listing_id": "l1"}, "images": []},
        {"listing": {"listing_id": "l1", "title": "", "description": ""}},
        {
            "listing": {
                "listing_id": "l1",
                "title": "Näkki 自行车 🚲",
                "price": 5,
                "currency": "EUR",
            }
        },
    ],
)
async def test_upload_is_decided_when_a_modality_is_missing(
    client: httpx.AsyncClient, changes: dict[str, Any]
) -> None:
    assert (await _send(client, **changes)).status_code == 200


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"listing": {"listing_id": "l", "price": NaN}}', "NaN"),
        (b'{"listing": {"listing_id": "l", "title": "\\ud800"}}', "JSON"),
        (b'{"listing": {"listing_id": "l", "title": "\xff"}}', "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"listing": 7}', "listing"),
        (b'{"listing": {}, "images": "x"}', "images"),
        (b'{"listing": {}, "images": [7]}', "images.0"),
        (json.dumps({"listing": LISTING, "images": ["*"]}).encode(), "base64"),
        (json.dumps({"listing": LISTING, "images": [""] * 9}).encode(), "images"),
        (json.dumps({"listing": LISTING, "submission_id": "a b"}).encode(), "submission_id"),
        (json.dumps({"listing": LISTING, "submitted_at": "2020-01-01"}).encode(), "submitted_at"),
    ],
)
async def test_body_is_refused_by_name_when_wrong(
    client: httpx.AsyncClient, body: bytes, named: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/v1/decisions", content=body, headers=headers)
    assert response.status_code == 400
    assert named in response.json()["message"]


async def test_body_is_refused_when_not_json_by_type(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "text/xml"}
    response = await client.post("/v1/decisions", content=b"<a/>", headers=headers)
    assert (response.status_code, response.json()["error"]) == (415, "WrongMediaType")


async def test_body_is_refused_early_when_too_large(client: httpx.AsyncClient) -> None:
    sent = 0

    async def chunks() -> Any:
        nonlocal sent
        for _ in range(1_000):
            sent += 2**20
            yield b"x" * 2**20

    headers = {"content-type": "application/json"}
    response = await client.post("/v1/decisions", content=chunks(), headers=headers)
    assert response.status_code == 413
    assert sent <= MAX_UPLOAD_BYTES + 2**21, "the rest is not read"
    declared = headers | {"content-length": str(MAX_UPLOAD_BYTES + 1)}
    response = await client.post("/v1/decisions", content=b"{}", headers=declared)
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Basic s3cret", 401),
        ("Bearer s3crét", 401),
        ("Bearer r3view", 403),
        ("bearer s3cret", 200),
        ("Bearer adm1n", 200),
    ],
)
async def test_caller_is_checked_when_uploading(
    client: httpx.AsyncClient, header: str | None, status: int
) -> None:
    del client.headers["authorization"]
    headers = {} if header is None else {b"Authorization": header.encode()}
    response = await client.post("/v1/decisions", json=an_upload(), headers=headers)
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"


async def test_submitter_is_refused_when_stating_truth(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/ground-truth", json={})).status_code == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/decisions/" + "0" * 32, 404), ("/v1/decisions/zzz", 400), ("/v1/nothing", 404)],
)
async def test_decision_is_not_found_when_unknown(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    response = await client.get(path)
    assert response.status_code == status
    assert response.json()["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=8,
)
ENVELOPES = st.fixed_dictionaries(
    {},
    optional={
        "listing": JSON
        | st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                ("listing_id", "title", "price", "currency", "seller_id", "language"), JSON
            ),
        ),
        "images": JSON | st.lists(st.text(max_size=30) | st.binary(max_size=60).map(as_text)),
        "submission_id": JSON,
        "ground_truth_id": JSON,
        "policy": JSON,
        "violates": JSON,
    },
)


@pytest.mark.parametrize("path", ["/v1/decisions", "/v1/ground-truth"])
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=JSON | ENVELOPES)
async def test_gateway_never_fails_when_json_is_random(
    client: httpx.AsyncClient, path: str, content: Any
) -> None:
    body = json.dumps(content).encode()
    headers = {"content-type": "application/json", "authorization": "Bearer adm1n"}
    response = await client.post(path, content=body, headers=headers)
    assert response.status_code < 500, response.text


@pytest.mark.parametrize(
    "changes",
    [
        {"images": ["http://127.0.0.1/a.png"]},
        {"images": [" FILE:///etc/passwd"]},
        {"images": ["data:image/png;base64,AAAA"]},
        {"image_urls": ["https://example.com/a.png"]},
    ],
)
async def test_an_image_by_its_address_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any]
) -> None:
    response = await client.post("/v1/decisions", json=an_upload(**changes))
    assert response.status_code == 400
    assert "addresses are not fetched; send the image's bytes" in response.json()["message"]
