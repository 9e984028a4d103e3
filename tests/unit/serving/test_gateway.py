import asyncio
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from ledger.events import EventKind, to_review_task
from ledger.ledger import SqliteLedger
from moderation.decision import MODEL_UNAVAILABLE, replay
from serving.gateway.gate import UploadGate
from serving.routing import Route, Router, RoutingTable, write_table
from tests.kept import a_keeper
from tests.unit.serving.fakes import BUNDLE, FakePredictor, an_upload

REVIEWER = {"Authorization": "Bearer r3view"}
ADMIN = {"Authorization": "Bearer adm1n"}


async def _decide(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/v1/decisions", json=an_upload(**changes))


def _kinds(gate: UploadGate) -> list[EventKind]:
    return [stored.event.kind for stored in gate.ledger.read()]


async def test_decision_is_recorded_when_answered(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    response = await _decide(client)
    answer = response.json()
    assert (response.status_code, answer["tier"], answer["reasons"]) == (200, "allow", [])
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert decision.decision_id == answer["decision_id"]
    assert (decision.arm, decision.weight, decision.routing_revision) == ("champion", 1.0, 7)
    assert decision.sticky_key == "seller-1"
    assert decision.degraded == ()
    attempt = decision.attempts[0]
    assert (attempt.role, attempt.status, attempt.release) == ("answer", "ok", BUNDLE)
    assert [score.probability for score in attempt.scores] == predictor.probability_P
    assert {s.version for score in attempt.scores for s in score.signals} >= {"i1", "t1", "n1"}
    assert replay(decision, gate.policies) == (decision.tier, decision.reason_codes)
    assert gate.store.has(decision.input_digests["listing"])
    assert gate.store.has(decision.input_digests["image.0"])
    assert _kinds(gate) == [EventKind.SUBMISSION, EventKind.DECISION]


async def test_decision_carries_codes_when_policies_are_reached(
    client: httpx.AsyncClient, predictor: FakePredictor, gate: UploadGate
) -> None:
    predictor.probability_P = [0.2, 0.95, 0.0]
    answer = (await _decide(client)).json()
    assert answer["tier"] == "block"
    codes = [reason["code"] for reason in answer["reasons"]]
    assert codes == ["COUNTERFEIT_SUSPECTED", "WEAPONS_PROHIBITED"]
    assert answer["reasons"][0]["message"] == gate.policies.policies[1].seller_message
    assert "evidence" not in answer


async def test_score_past_a_capped_tier_ends_in_review(
    client: httpx.AsyncClient, predictor: FakePredictor, gate: UploadGate, routing: Path
) -> None:
    route = Route(url=predictor.url, weight=1.0, caps={"weapons": "block"})
    write_table(routing, RoutingTable(revision=8, champion=BUNDLE, releases={BUNDLE: route}))
    gate.router.refresh()
    predictor.probability_P = [0.95, 0.0, 0.0]
    answer = (await _decide(client)).json()
    assert answer["tier"] == "review"
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert decision.attempts[0].thresholds["weapons"] == {"tag": 0.1, "review": 0.5}
    assert decision.attempts[0].thresholds["spam"]["block"] == 0.9
    assert replay(decision, gate.policies) == ("review", ("WEAPONS_PROHIBITED",))
    predictor.probability_P = [0.0, 0.0, 0.95]
    other = await _decide(client, submission_id="another")
    assert other.json()["tier"] == "block", "the cap is of one policy"


async def test_review_tier_opens_a_task_when_decided(
    client: httpx.AsyncClient, predictor: FakePredictor, gate: UploadGate
) -> None:
    predictor.probability_P = [0.6, 0.0, 0.0]
    assert (await _decide(client)).json()["tier"] == "review"
    tasks = [to_review_task(s.event) for s in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert [(t.priority, t.reason) for t in tasks] == [("normal", "WEAPONS_PROHIBITED")]


@pytest.mark.parametrize("failure", ["down", "refuses", "timeout", "nonsense", "other bundle"])
async def test_upload_passes_by_policy_when_the_model_fails(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, failure: str
) -> None:
    status = "error"
    match failure:
        case "down":
            await predictor.stop()
        case "refuses":
            predictor.error = grpc.StatusCode.INTERNAL
        case "timeout":
            gate.budgets = gate.budgets.model_copy(update={"total_ms": 300})
            predictor.delay_s, status = 5.0, "timeout"
        case "nonsense":
            predictor.probability_P = [0.1, float("nan"), 7.0]
        case "other bundle":
            predictor.release = predictor.release.model_copy(update={"bundle": "b" * 64})
    response = await _decide(client)
    answer = response.json()
    assert (response.status_code, answer["tier"]) == (200, "allow")
    assert [reason["code"] for reason in answer["reasons"]] == [MODEL_UNAVAILABLE]
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert decision.attempts[0].status == status
    assert decision.attempts[0].error
    assert any("on_failure=allow_and_review" in what for what in decision.degraded)
    tasks = [to_review_task(s.event) for s in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert [(t.priority, t.trace_id) for t in tasks] == [("high", decision.trace_id)]
    assert replay(decision, gate.policies) == (decision.tier, decision.reason_codes)


async def test_upload_is_held_when_the_policy_says_review(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.policies = gate.policies.model_copy(update={"on_failure": "review"})
    predictor.error = grpc.StatusCode.UNAVAILABLE
    assert (await _decide(client)).json()["tier"] == "review"


async def test_upload_passes_when_there_is_no_routing_table(
    client: httpx.AsyncClient, gate: UploadGate, routing: Path
) -> None:
    routing.unlink()
    gate.router = Router(routing, gate.clock)
    answer = (await _decide(client)).json()
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert "routing: no routing table" in decision.degraded
    assert decision.versions.bundle is None


async def test_gateway_recovers_when_the_predictor_returns(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    predictor.error = grpc.StatusCode.UNAVAILABLE
    assert (await _decide(client)).json()["reasons"]
    predictor.error = None
    assert (await _decide(client)).json()["reasons"] == []


async def test_same_submission_gets_the_same_decision_when_repeated(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    first = await _decide(client, submission_id="mine-1")
    predictor.probability_P = [0.99, 0.99, 0.99]
    second = await _decide(client, submission_id="mine-1")
    assert second.json() == first.json()
    assert second.headers["idempotent-replay"] == "true"
    assert len(predictor.requests) == 1
    other = await _decide(client, submission_id="mine-1", images=[])
    assert other.status_code == 409
    assert "mine-1" in other.json()["message"]
    assert _kinds(gate) == [EventKind.SUBMISSION, EventKind.DECISION]


async def test_one_decision_is_kept_when_requests_race(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    predictor.delay_s = 0.1
    answers = await asyncio.gather(*(_decide(client, submission_id="mine-1") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["decision_id"] for answer in answers}) == 1
    assert _kinds(gate) == [EventKind.SUBMISSION, EventKind.DECISION]


async def test_submission_is_decided_when_it_was_only_recorded(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    first = await _decide(client, submission_id="mine-1")
    assert first.status_code == 200
    stored = [s.event for s in gate.ledger.read([EventKind.SUBMISSION])]
    gate.keeper.close()
    gate.keeper = a_keeper(tmp_path, SqliteLedger(tmp_path / "other.sqlite"))
    gate.ledger.append(stored)
    second = await _decide(client, submission_id="mine-1")
    assert "idempotent-replay" not in second.headers
    decision = gate.ledger.get_decision(second.json()["trace_id"])
    assert decision is not None
    assert decision.submitted_at == stored[0].occurred_at


async def test_traceparent_names_the_decision_when_valid(client: httpx.AsyncClient) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    client.headers["traceparent"] = f"00-{trace_id}-00f067aa0ba902b7-01"
    first = await _decide(client)
    assert first.json()["trace_id"] == trace_id
    assert first.headers["traceparent"].startswith(f"00-{trace_id}-")
    second = await _decide(client)
    assert second.json()["trace_id"] != trace_id, "one trace may hold many uploads"
    found = await client.get(f"/v1/decisions/{trace_id}")
    assert found.json()["decision_id"] == first.json()["decision_id"]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00-xyz",
        "00-" + "0" * 32 + "-00f067aa0ba902b7-01",
        "ff-" + "a" * 32 + "-" + "b" * 16 + "-01",
    ],
)
async def test_traceparent_is_replaced_when_invalid(client: httpx.AsyncClient, value: str) -> None:
    client.headers["traceparent"] = value
    trace_id = (await _decide(client)).json()["trace_id"]
    assert len(trace_id) == 32
    assert trace_id not in value


async def test_evidence_is_shown_when_the_caller_reviews(client: httpx.AsyncClient) -> None:
    trace_id = (await _decide(client)).json()["trace_id"]
    plain = (await client.get(f"/v1/decisions/{trace_id}")).json()
    assert "evidence" not in plain
    for headers in (REVIEWER, ADMIN):
        seen = (await client.get(f"/v1/decisions/{trace_id}", headers=headers)).json()
        assert seen["evidence"]["attempts"][0]["scores"]
        assert {k: v for k, v in seen.items() if k != "evidence"} == plain


async def test_behaviour_travels_when_the_seller_has_history(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    for _ in range(3):
        trace_id = (await _decide(client)).json()["trace_id"]
    decision = gate.ledger.get_decision(trace_id)
    assert decision is not None
    features = {feature.name: feature for feature in decision.features}
    assert features["submissions_1h"].value == 2
    assert features["submissions_1h"].event_time is not None
    assert features["price_log_ratio"].status == "missing"


async def test_metrics_and_docs_are_served(client: httpx.AsyncClient) -> None:
    await _decide(client)
    metrics = (await client.get("/metrics")).text
    assert 'tidegate_decisions_total{arm="champion",status="ok",tier="allow"}' in metrics
    assert (await client.get("/healthz")).json() == {"status": "alive"}
    ready = await client.get("/readyz")
    assert ready.json() == {
        "ready": True,
        "checks": {
            "ledger": "ok",
            "spill": "ok",
            "predictor": "ok",
            "features": "ok",
            "banks": "no active version",
            "patterns": "ok",
        },
    }
    page = (await client.get("/docs")).text
    assert "POST /v1/decisions" in page
    assert "http://" not in page
    assert "<script" not in page
    schema = (await client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/decisions"]["post"]["requestBody"]["content"]["application/json"]
    assert "title" in body["schema"]["properties"]["listing"]["properties"]


async def test_gateway_is_ready_when_only_the_predictor_is_down(
    client: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    await predictor.stop()
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]["predictor"]) == (200, "unavailable")
