from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from ledger.events import EventKind
from moderation.decision import replay
from serving.gateway.gate import UploadGate
from tests.unit.serving.fakes import FakePredictor, an_upload


async def _decide(client: httpx.AsyncClient, category: str | None, **changes: Any) -> Any:
    upload = an_upload(**changes)
    upload["listing"] = upload["listing"] | {"category": category}
    return (await client.post("/v1/decisions", json=upload)).json()


@pytest.mark.parametrize(
    ("category", "tier"),
    [("Knives", "review"), ("knives", "review"), ("books", "allow"), (None, "allow")],
)
async def test_category_decides_what_a_failure_means(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    category: str | None,
    tier: str,
) -> None:
    named = {"knives": "review"}
    gate.policies = gate.policies.model_copy(update={"on_failure_by_category": named})
    predictor.error = grpc.StatusCode.UNAVAILABLE
    answer = await _decide(client, category)
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert answer["tier"] == decision.tier == decision.attempts[0].tier == tier
    applied = "review" if tier == "review" else "allow_and_review"
    assert decision.on_failure == applied
    assert any(f"on_failure={applied}" in said for said in decision.degraded)
    later = gate.policies.model_copy(update={"on_failure_by_category": {}})
    assert replay(decision, later) == (decision.tier, decision.reason_codes)
    assert gate.ledger.last_sequence([EventKind.REVIEW_TASK]) > 0


async def test_category_says_nothing_when_the_model_answers(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    named = {"knives": "review"}
    gate.policies = gate.policies.model_copy(update={"on_failure_by_category": named})
    answer = await _decide(client, "knives")
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert (decision.tier, decision.on_failure) == ("allow", None)
