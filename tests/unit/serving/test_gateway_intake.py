"""What a gateway takes in at once: beyond it uploads are refused unread, and who was let in is judged by a model."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import orjson
import pytest

from moderation.serving_rules import IntakeRules
from serving.errors import QuotaExceeded
from serving.gateway.app import ERRORS, create_app
from serving.gateway.auth import Callers
from serving.gateway.gate import UploadGate
from serving.gateway.intake import IN_FLIGHT, RECEIVING, REFUSED, GatewayFull, Intake
from tests.unit.serving.fakes import TOKENS, FakePredictor, an_upload
from tests.unit.serving.guarded import guard, quota_rules

MIB = 2**20
RULES = IntakeRules(
    max_uploads=3, max_bodies=6, max_mib=2, caller_share=0.5, body_s=5.0, retry_s=4.0
)
JSON = {"Content-Type": "application/json"}
ADMIN = {"Authorization": "Bearer adm1n"}


def _refused(what: str) -> float:
    return float(REFUSED.labels(what)._value.get())


def _take(intake: Intake, caller: str, num_bytes: int = 0) -> None:
    with intake.take(caller, num_bytes):
        pass


def test_turns_are_bounded_by_number_and_given_back() -> None:
    intake = Intake(RULES)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(intake.take("shop", 0))()
        assert IN_FLIGHT._value.get() == 3
        with pytest.raises(GatewayFull, match="3 uploads are being decided already") as refused:
            _take(intake, "shop")
        assert refused.value.delay_s == 4.0
    with suppress(ValueError), intake.take("shop", 0) as come:
        come()
        raise ValueError("broken")
    assert IN_FLIGHT._value.get() == RECEIVING._value.get() == 0
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(intake.take("shop", 0))()


def test_bodies_on_their_way_take_no_turn_of_those_that_are_there() -> None:
    intake = Intake(RULES)
    with intake.take("slow", 0), intake.take("slow", 0) as late, ExitStack() as held:
        for _ in range(3):
            held.enter_context(intake.take("shop", 0))()
        assert RECEIVING._value.get() == 2
        with pytest.raises(GatewayFull, match="3 uploads are being decided"):
            late()
        held.close()
        late()
        assert (RECEIVING._value.get(), IN_FLIGHT._value.get()) == (1, 1)


def test_bodies_of_one_caller_leave_room_for_those_of_others() -> None:
    intake = Intake(RULES)
    with intake.take("slow", 0), intake.take("slow", 0), intake.take("slow", 0):
        before = _refused("caller")
        with pytest.raises(QuotaExceeded, match="caller slow has 3 uploads on their way"):
            _take(intake, "slow")
        assert _refused("caller") - before == 1
        with ExitStack() as held:
            for _ in range(3):
                held.enter_context(intake.take("shop", 0))
            with pytest.raises(GatewayFull, match="6 uploads are on their way"):
                _take(intake, "another")
        _take(intake, "another")
    with intake.take("slow", MIB):
        with pytest.raises(QuotaExceeded, match="1 MiB"):
            _take(intake, "slow", 1)
        with intake.take("shop", MIB), pytest.raises(GatewayFull, match="2 MiB"):
            _take(intake, "another", 1)


def test_room_is_bounded_by_size_but_one_upload_may_always_come() -> None:
    intake = Intake(RULES)
    with intake.take("shop", 5 * MIB), pytest.raises(GatewayFull, match="5 MiB"):
        _take(intake, "another", 1)
    with intake.take("shop", 2 * MIB) as come:
        come()
        with pytest.raises(GatewayFull, match="2 MiB"):
            _take(intake, "shop", 1)
    _take(intake, "shop", 5 * MIB)


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

    with gate.intake.take("another", 0), gate.intake.take("third", 1):
        # A body of unknown length counts as the largest that may come.
        refused = await client.post("/v1/decisions", content=body(), headers=JSON)
    assert (refused.status_code, asked) == (503, 0)
    assert "MiB of uploads" in refused.json()["message"]


async def _never_ending() -> AsyncIterator[bytes]:
    yield b'{"listing": '
    await asyncio.sleep(60)


async def test_bodies_that_never_end_hold_up_nobody_and_are_given_up(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    gate.intake = Intake(RULES.model_copy(update={"max_mib": 4_000, "body_s": 1.5}))
    slow = [
        asyncio.create_task(client.post("/v1/decisions", content=_never_ending(), headers=JSON))
        for _ in range(4)
    ]
    while RECEIVING._value.get() < 3:
        await asyncio.sleep(0.01)
    over = await slow[3]
    assert (over.status_code, over.json()["error"]) == (429, "QuotaExceeded")
    answers = [await client.post("/v1/decisions", json=an_upload(), headers=ADMIN) for _ in "12345"]
    assert {one.status_code for one in answers} == {200}
    assert not any(one.done() for one in slow[:3])
    given_up = await asyncio.gather(*slow[:3])
    assert {one.status_code for one in given_up} == {408}
    assert {one.json()["error"] for one in given_up} == {"BodyTooSlow"}
    assert "12 bytes of the body came in 1.5 s" in given_up[0].json()["message"]
    assert given_up[0].headers["connection"] == "close"
    assert RECEIVING._value.get() == 0


@pytest.mark.parametrize("path", ["ground-truth", "reversals", "enforcement"])
async def test_no_other_body_is_waited_for_longer(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path, path: str
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules())
    gate.intake = Intake(RULES.model_copy(update={"body_s": 0.1}))
    answer = await client.post(f"/v1/{path}", content=_never_ending(), headers=JSON | ADMIN)
    assert (answer.status_code, answer.json()["error"]) == (408, "BodyTooSlow")


async def test_a_caller_that_goes_away_is_no_fault_of_ours(
    gate: UploadGate, caplog: pytest.LogCaptureFixture
) -> None:
    app, headers = create_app(gate, Callers(TOKENS)), {**JSON, "Authorization": "Bearer s3cret"}
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": orjson.dumps(an_upload())[:40], "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/decisions",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    before = ERRORS.labels("ClientDisconnect")._value.get()

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(_: object) -> None:
        """Take what nobody reads."""

    with caplog.at_level(logging.INFO):
        await app(scope, receive, send)
    assert ERRORS.labels("ClientDisconnect")._value.get() - before == 1
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert (IN_FLIGHT._value.get(), RECEIVING._value.get()) == (0, 0)
    assert list(gate.ledger.read()) == []
