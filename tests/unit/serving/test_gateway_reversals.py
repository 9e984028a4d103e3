"""Reversals through the real app: recorded once, and from then on the seller did not violate."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from ledger.events import EventKind, to_reversal
from serving.gateway.gate import UploadGate
from tests.unit.serving.fakes import an_upload

REVIEWER = {"Authorization": "Bearer r3view"}


@pytest.fixture
async def submission_id(client: httpx.AsyncClient) -> str:
    answer = await client.post("/v1/decisions", json=an_upload())
    found: str = answer.json()["submission_id"]
    return found


async def _undo(client: httpx.AsyncClient, submission_id: str, **changes: Any) -> httpx.Response:
    body = {"reversal_id": "undo-1", "submission_id": submission_id, "reason": "appeal"}
    return await client.post("/v1/reversals", json=body | changes, headers=REVIEWER)


async def _violations(client: httpx.AsyncClient, gate: UploadGate) -> float | None:
    answer = await client.post("/v1/decisions", json=an_upload())
    decision = gate.ledger.get_decision(answer.json()["trace_id"])
    assert decision is not None
    return {feature.name: feature.value for feature in decision.features}["violations_90d"]


async def test_reversal_is_recorded_once_when_repeated(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    first, second = [await _undo(client, submission_id, policy="weapons") for _ in range(2)]
    assert first.json() == {"reversal_id": "undo-1", "recorded": True}
    assert second.json() == {"reversal_id": "undo-1", "recorded": False}
    [stored] = [to_reversal(s.event) for s in gate.ledger.read([EventKind.REVERSAL])]
    assert (stored.submission_id, stored.policy, stored.reason) == (
        submission_id,
        "weapons",
        "appeal",
    )
    assert stored.reversed_by == "reviewer"
    assert stored.known_at >= stored.reversed_at


async def test_reversal_is_known_when_it_arrives(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    """One that was made before counts in no snapshot of the time between."""
    submission = gate.ledger.get_submission(submission_id)
    assert submission is not None
    made = submission.submitted_at + timedelta(microseconds=1)
    assert (await _undo(client, submission_id, reversed_at=made.isoformat())).status_code == 200
    [stored] = gate.ledger.read([EventKind.REVERSAL])
    assert to_reversal(stored.event).reversed_at == made
    assert stored.event.occurred_at == to_reversal(stored.event).known_at > made


@pytest.mark.parametrize("change", [{}, {"policy": "spam"}, {"reason": "policy_error"}])
async def test_reversal_is_refused_when_the_id_says_something_else(
    client: httpx.AsyncClient, submission_id: str, change: dict[str, Any]
) -> None:
    await _undo(client, submission_id)
    if not change:
        answer = await client.post("/v1/decisions", json=an_upload())
        submission_id = answer.json()["submission_id"]
    response = await _undo(client, submission_id, **change)
    assert response.status_code == 409
    assert "undo-1" in response.json()["message"]


async def test_reversal_is_refused_when_the_submission_is_unknown(
    client: httpx.AsyncClient,
) -> None:
    assert (await _undo(client, "nobody")).status_code == 404


async def test_reversal_is_refused_when_the_caller_submits(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    body = {"reversal_id": "undo-1", "submission_id": submission_id, "reason": "appeal"}
    response = await client.post("/v1/reversals", json=body)
    assert response.status_code == 403
    assert not list(gate.ledger.read([EventKind.REVERSAL]))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"policy": "boredom"}, "policy"),
        ({"reason": "mood"}, "reason"),
        ({"reversed_at": "2001-01-01T00:00:00Z"}, "reversed_at: is before the submission"),
        ({"reversed_at": "2999-01-01T00:00:00Z"}, "reversed_at: is in the future"),
        ({"reversed_at": "2026-01-01T00:00:00"}, "reversed_at"),
        ({"known_at": "2026-01-01T00:00:00Z"}, "known_at"),
        ({"reversal_id": "../x"}, "reversal_id"),
    ],
)
async def test_reversal_is_refused_when_a_field_is_wrong(
    client: httpx.AsyncClient, submission_id: str, change: dict[str, Any], named: str
) -> None:
    response = await _undo(client, submission_id, **change)
    assert response.status_code == 400
    assert named in response.json()["message"]


async def test_reversal_clears_the_seller_from_then_on(
    client: httpx.AsyncClient, gate: UploadGate, submission_id: str
) -> None:
    """From enforcement to behaviour and back: what was undone stays undone until it is judged again."""
    truth = {"submission_id": submission_id, "policy": "weapons", "violates": True}
    await client.post("/v1/ground-truth", json=truth | {"ground_truth_id": "1"}, headers=REVIEWER)
    assert await _violations(client, gate) == 1
    await _undo(client, submission_id)
    assert await _violations(client, gate) == 0
    await client.post("/v1/ground-truth", json=truth | {"ground_truth_id": "2"}, headers=REVIEWER)
    assert await _violations(client, gate) == 1


async def test_reversal_is_described_for_callers(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    described = schema["paths"]["/v1/reversals"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["required"]) == {"reversal_id", "submission_id", "reason"}
    assert {"400", "404", "409"} <= set(described["responses"])
    assert "/v1/reversals" in (await client.get("/docs")).text
