"""The OpenAPI schema is true: a few of its requests by schemathesis, and nobody gets in without a token."""

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.gate import UploadGate
from tests.fuzz.api import ROLES, run_schemathesis, served
from tests.unit.serving.fakes import TOKENS, an_upload


@pytest.fixture
def app(gate: UploadGate) -> FastAPI:
    return create_app(gate, Callers(TOKENS))


def test_answers_are_those_of_the_schema() -> None:
    options = ("--phases", "fuzzing,stateful", "--max-examples", "8")
    with served() as url:
        status, said = run_schemathesis(url, ROLES["admin"], 7, *options)
    assert status == 0, said


async def test_nobody_gets_in_without_a_token(app: FastAPI) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/v1/decisions": an_upload(),
        "/v1/ground-truth": {"ground_truth_id": "t", "submission_id": "s", "policy": "spam"},
        "/v1/enforcement": {"state": "stopped", "reason": "a test"},
        "/v1/reversals": {"reversal_id": "r", "submission_id": "s", "reason": "appeal"},
    }
    guarded = [
        (path, method)
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
        if operation.get("security")
    ]
    assert len(guarded) == 7
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path, method in guarded:
            for said in (
                None,
                "Bearer",
                "Bearer wrong",
                "Basic s3cret",
                "s3cret",
                "Bearer s3cret x",
            ):
                response = await client.request(
                    method,
                    path.replace("{trace_id}", "a" * 32),
                    headers={} if said is None else {"Authorization": said},
                    content=json.dumps(bodies.get(path, {})),
                )
                assert response.status_code == 401, (path, said)
                assert response.headers["www-authenticate"] == "Bearer"


async def test_a_wrong_method_is_told_all_right_ones(app: FastAPI) -> None:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        for path, allowed in (("/v1/enforcement", "GET, POST"), ("/v1/decisions", "POST")):
            response = await client.delete(path)
            assert response.status_code == 405
            assert response.headers["allow"] == allowed


def test_all_of_the_api_is_guarded(app: FastAPI) -> None:
    schema = app.openapi()
    open_paths = {
        path
        for path, operations in schema["paths"].items()
        for operation in operations.values()
        if not operation.get("security")
    }
    assert open_paths == {"/healthz", "/readyz"}
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


def test_schema_tells_what_code_alone_refuses(app: FastAPI, gate: UploadGate) -> None:
    paths = app.openapi()["paths"]
    statuses = {path: set(next(iter(one.values()))["responses"]) for path, one in paths.items()}
    assert not any("422" in one for one in statuses.values()), "no refusal is FastAPI's own"
    truth = paths["/v1/ground-truth"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert truth["properties"]["policy"]["enum"] == list(gate.policies.ids)
    assert "import" not in truth["properties"]["source"]["enum"]
    upload = paths["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    listing = upload["properties"]["listing"]["properties"]
    assert listing["price"]["anyOf"][0]["maximum"] == 1e9
    assert "EUR" in listing["currency"]["anyOf"][0]["enum"]
