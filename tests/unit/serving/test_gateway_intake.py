"""What a gateway takes in at once: beyond it uploads are refused unread, and who was let in is judged by a model."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from moderation.serving_rules import IntakeRules
from serving.gateway.gate import UploadGate
from serving.gateway.intake import REFUSED, GatewayFull, Intake
from tests.unit.serving.fakes import FakePredictor, an_upload

MIB = 2**20
RULES = IntakeRules(max_uploads=3, max_mib=2, retry_s=4.0)


def _refused(what: str) -> float:
    return float(REFUSED.labels(what)._value.get())


def test_room_is_bounded_by_number_and_given_back() -> None:
    intake = Intake(RULES)
    with intake.take(0), intake.take(0), intake.take(0):
        with pytest.raises(GatewayFull, match="3 uploads are being decided already") as refused:
            intake.take(0).__enter__()
        assert refused.value.delay_s == 4.0
    with pytest.raises(ValueError, match="broken"), intake.take(0):
        raise ValueError("broken")
    with intake.take(0), intake.take(0), intake.take(0):
        pass


def test_room_is_bounded_by_size_but_one_upload_may_always_come() -> None:
    intake = Intake(RULES)
    with intake.take(5 * MIB), pytest.raises(GatewayFull, match="5 MiB"):
        intake.take(1).__enter__()
    with intake.take(MIB), intake.take(MIB), pytest.raises(GatewayFull, match="2 MiB"):
        intake.take(1).__enter__()


async def test_a_flood_is_refused_and_who_was_let_in_is_judged(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    gate.intake = Intake(RULES)
    predictor.delay_s = 0.3
    before = _refused("uploads")
    sent = [client.post("/v1/decisions", json=an_upload()) for _ in range(12)]
    answers = await asyncio.gather(*sent)
    taken = [one for one in answers if one.status_code == 200]
    refused = [one for one in answers if one.status_code == 503]
    assert (len(taken), len(refused)) == (3, 9)
    assert {one.headers["retry-after"] for one in refused} == {"4"}
    assert {one.json()["error"] for one in refused} == {"GatewayFull"}
    assert _refused("uploads") - before == 9
    for one in taken:
        decision = gate.ledger.get_decision(one.json()["trace_id"])
        assert decision is not None
        assert decision.decided_by == "model"
    predictor.delay_s = 0.0
    assert (await client.post("/v1/decisions", json=an_upload())).status_code == 200


async def test_nothing_of_a_refused_body_is_read(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    gate.intake = Intake(RULES)
    asked = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        asked += 1
        yield b"{}"

    headers = {"Content-Type": "application/json"}
    with gate.intake.take(0):
        # A body of unknown length counts as the largest that may come.
        refused = await client.post("/v1/decisions", content=body(), headers=headers)
    assert (refused.status_code, asked) == (503, 0)
    assert "MiB of uploads" in refused.json()["message"]
