from typing import Any

import httpx
import pytest

from ledger.events import EventKind, to_ground_truth
from serving.gateway.gate import UploadGate
from tests.unit.serving.fakes import an_upload

REVIEWER = {"Authorization": "Bearer r3view"}


@pytest.fixture
async def submission_id(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/decisions", json=an_upload())
    found: str = answer.json()["submission_id"]
    return found


async def _state(client: httpx.AsyncClient, submission_id: str, **changes: Any) -> httpx.Response:
    body = {
        "ground_truth_id": "review-1",
        "submission_id": submission_id,
        "policy": "weapons",
        "violates": True,
    }
    return await client.post("/v1/ground-truth", json=body | changes, headers=REVIEWER)


async def test_truth_is_recorded_once_when_repeated(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    first, second = [await _state(client, submission_id) for _ in range(2)]
    assert first.json() == {"ground_truth_id": "review-1", "recorded": True}
    assert second.json() == {"ground_truth_id": "review-1", "recorded": False}
    stored = [to_ground_truth(s.event) for s in gate.ledger.read([EventKind.GROUND_TRUTH])]
    assert [(t.submission_id, t.violates) for t in stored] == [(submission_id, True)]
    assert stored[0].known_at >= stored[0].reviewed_at


async def test_truth_is_refused_when_the_id_says_something_else(
    client: httpx.AsyncClient, submission_id: str
) -> None:
    await _state(client, submission_id)
    response = await _state(client, submission_id, violates=False)
    assert response.status_code == 409
    assert "review-1" in response.json()["message"]


async def test_truth_is_refused_when_the_submission_is_unknown(client: httpx.AsyncClient) -> None:
    assert (await _state(client, "nobody")).status_code == 404


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"policy": "boredom"}, "policy"),
        ({"violates": "perhaps"}, "violates"),
        ({"propensity": 0}, "propensity"),
        ({"source": "oracle"}, "source"),
        ({"source": "import"}, "send review, appeal, audit or report"),
        ({"source": "audit"}, "propensity: is missing"),
        ({"reviewed_at": "2001-01-01T00:00:00Z"}, "reviewed_at: is before the submission"),
        ({"reviewed_at": "2999-01-01T00:00:00Z"}, "reviewed_at"),
        ({"reviewed_at": "2026-01-01T00:00:00"}, "reviewed_at"),
        ({"known_at": "2026-01-01T00:00:00Z"}, "known_at"),
        ({"ground_truth_id": "../x"}, "ground_truth_id"),
    ],
)
async def test_truth_is_refused_when_a_field_is_wrong(
    client: httpx.AsyncClient, submission_id: str, change: dict[str, Any], named: str
) -> None:
    response = await _state(client, submission_id, **change)
    assert response.status_code == 400
    assert named in response.json()["message"]


async def test_truth_keeps_its_propensity_when_from_an_audit(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    response = await _state(client, submission_id, source="audit", propensity=0.01)
    assert response.status_code == 200
    stored = [to_ground_truth(s.event) for s in gate.ledger.read([EventKind.GROUND_TRUTH])]
    assert [(t.source, t.propensity) for t in stored] == [("audit", 0.01)]


async def test_truth_reaches_the_behaviour_when_known(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    await _state(client, submission_id)
    answer = await client.post("/v1/decisions", json=an_upload())
    decision = gate.ledger.get_decision(answer.json()["trace_id"])
    assert decision is not None
    values = {feature.name: feature.value for feature in decision.features}
    assert values["violations_90d"] == 1


async def test_truth_is_refused_when_the_body_is_large(client: httpx.AsyncClient) -> None:
    response = await _state(client, "x" * 70_000)
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("violates", "no"),
        ("violates", 0),
        ("adjudicated", 1),
        ("propensity", "0.5"),
        ("reviewed_at", 1_763_805_600),
    ],
)
async def test_truth_is_refused_when_a_value_is_of_another_type(
    client: httpx.AsyncClient, submission_id: str, field: str, value: Any
) -> None:
    response = await _state(client, submission_id, **{field: value})
    assert response.status_code == 400
    assert response.json()["message"].startswith(f"{field}: ")
