"""The routes of a predictor beside its inference: which are closed, and how much of a body they are given."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from moderation.release import load_release
from serving.predictor.intake import Intake
from serving.predictor.others import MAX_OTHER_BYTES, OtherRoutes


@pytest.fixture
def client() -> httpx.AsyncClient:
    kserve = FastAPI()

    async def echo(request: Request) -> int:
        return len(await request.body())

    async def never() -> None:
        pytest.fail("it is closed")

    kserve.add_api_route("/echo", echo, methods=["GET", "POST"])
    for path in ("/v2/repository/models/{name}/unload", "/v1/models/{name}:predict"):
        kserve.add_api_route(path, never, methods=["POST"])
    kserve.add_api_route("/v1/models/{name}:explain", echo, methods=["POST"])
    rules = load_release(Path("policies/release.yaml")).serving.predictor
    transport = httpx.ASGITransport(OtherRoutes(kserve, Intake(rules)))
    return httpx.AsyncClient(transport=transport, base_url="http://predictor")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/repository",
        "/v2/repository/",
        "/v2/repository/index",
        "/v2/repository/models/tidegate/unload",
        "/v2/repository/models/tidegate/%75nload",
        "/v1/models/tidegate:predict",
        "/v1/models/tidegate%3Apredict",
    ],
)
async def test_a_closed_route_is_404_with_the_reason(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json={"instances": [1]})
    assert answer.status_code == 404
    assert "use" in answer.json()["error"] or "one bundle" in answer.json()["error"]


async def test_a_body_within_the_bound_is_handed_on_whole(client: httpx.AsyncClient) -> None:
    assert (await client.get("/echo")).json() == 0
    for path in ("/echo", "/v1/models/tidegate:explain"):
        assert (await client.post(path, content=b"x" * MAX_OTHER_BYTES)).json() == MAX_OTHER_BYTES


async def test_a_body_beyond_the_bound_is_not_read(client: httpx.AsyncClient) -> None:
    declared = await client.post("/echo", content=b"x" * (MAX_OTHER_BYTES + 1))
    assert (declared.status_code, "takes more" in declared.json()["error"]) == (413, True)
    num_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal num_read
        while True:
            num_read += 2**16
            yield b"x" * 2**16

    assert (await client.post("/echo", content=endless())).status_code == 413
    assert num_read <= MAX_OTHER_BYTES + 2**17
