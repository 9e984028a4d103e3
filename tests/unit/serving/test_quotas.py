"""Quotas: a caller that sends too much waits; the others do not notice."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from moderation.clock import SimulatedClock
from serving.errors import QuotaExceeded
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.gate import UploadGate
from serving.gateway.quotas import Quotas
from tests.unit.serving.fakes import an_upload

START = datetime(2026, 11, 1, tzinfo=UTC)


def _num_taken(quotas: Quotas, caller: str, tries: int) -> int:
    taken = 0
    for _ in range(tries):
        try:
            quotas.take(caller)
        except QuotaExceeded:
            continue
        taken += 1
    return taken


def test_a_caller_gets_its_burst_and_then_its_rate() -> None:
    clock = SimulatedClock(START)
    quotas = Quotas(10, clock)
    assert _num_taken(quotas, "a", 100) == 20
    assert _num_taken(quotas, "b", 5) == 5, "another caller has a bucket of its own"
    clock.move_to(START + timedelta(seconds=0.5))
    assert _num_taken(quotas, "a", 100) == 5
    clock.move_to(START + timedelta(hours=1))
    assert _num_taken(quotas, "a", 100) == 20, "an idle hour is worth no more than a burst"


def test_over_a_long_time_a_caller_gets_no_more_than_its_rate() -> None:
    clock = SimulatedClock(START)
    quotas, taken = Quotas(7, clock), 0
    for step in range(1, 1_001):
        clock.move_to(START + timedelta(seconds=step / 50))
        taken += _num_taken(quotas, "a", 3)
    assert taken == pytest.approx(20 * 7 + 14, abs=1)


def test_the_wait_that_is_told_is_enough() -> None:
    clock = SimulatedClock(START)
    quotas = Quotas(0.5, clock)
    quotas.take("a")
    with pytest.raises(QuotaExceeded, match=r"caller a sends more than 0\.5") as refused:
        quotas.take("a")
    clock.move_to(START + timedelta(seconds=refused.value.delay_s))
    quotas.take("a")


async def test_the_gateway_says_when_to_come_again(gate: UploadGate) -> None:
    app = create_app(gate, Callers("a:submitter:s3cret,b:submitter:0ther"), Quotas(0.1, gate.clock))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:

        async def send(token: str) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"}
            return await client.post("/v1/decisions", json=an_upload(), headers=headers)

        assert (await send("s3cret")).status_code == 200
        refused = await send("s3cret")
        assert (refused.status_code, refused.json()["error"]) == (429, "QuotaExceeded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 10
        assert (await send("0ther")).status_code == 200
