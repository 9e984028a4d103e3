"""Alerts on what a gateway really exports: each fires when its cause is there, and none while all is well."""

import asyncio
from pathlib import Path

import httpx
import pytest

from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from moderation.serving_rules import ServingRules
from serving.alerts import alerts
from serving.gateway.breaker import Breakers
from serving.gateway.gate import UploadGate
from serving.gateway.loops import for_ever
from tests.alert_rules import fires
from tests.kept import SERVING, a_keeper, with_budget
from tests.small_disk import held
from tests.unit.serving.fakes import FakePredictor, an_upload

NAMES = {
    "TidegateWithoutModel",
    "TidegateCircuitOpen",
    "TidegateLoopFails",
    "TidegateSpillFills",
    "TidegateSpillWaits",
    "TidegateSpillQuarantined",
}


def _firing(before: str, after: str, rules: ServingRules = SERVING) -> set[str]:
    return {
        alert.name
        for alert in alerts(rules)
        if alert.name in NAMES and fires(alert.expression, before, after)
    }


async def _page(client: httpx.AsyncClient, gate: UploadGate) -> str:
    await gate.keeper.state()
    return (await client.get("/metrics")).text


async def _decide(client: httpx.AsyncClient, number: int) -> None:
    for _ in range(number):
        assert (await client.post("/v1/decisions", json=an_upload())).status_code == 200


async def test_nothing_alerts_while_all_is_well(
    client: httpx.AsyncClient, gate: UploadGate
) -> None:
    before = await _page(client, gate)
    await _decide(client, 30)
    after = await _page(client, gate)
    assert _firing(before, after) == set()
    assert _firing(after, after) == set(), "nor where nobody uploads"


async def test_a_dead_predictor_alerts(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    rules = SERVING.breakers.predictor.model_copy(update={"open_s": 0.01})
    gate.breakers = Breakers("predictor", rules, gate.clock)
    await _decide(client, 1)
    await predictor.stop()
    await _decide(client, 1)
    before = await _page(client, gate)
    await _decide(client, 18)
    few = await _page(client, gate)
    assert "TidegateWithoutModel" not in _firing(before, few), "too few to say"
    await _decide(client, 20)
    after = await _page(client, gate)
    assert _firing(before, after) == {"TidegateWithoutModel", "TidegateCircuitOpen"}
    assert _firing(after, after) == set(), "a circuit that nobody calls says nothing"


async def test_a_few_failures_do_not_alert(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor
) -> None:
    before = await _page(client, gate)
    await _decide(client, 30)
    await predictor.stop()
    await _decide(client, 3)
    assert _firing(before, await _page(client, gate)) == set()


async def test_a_spill_that_waits_and_fills_alerts(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    _replace_keeper(gate, tmp_path, with_budget(150))
    with held(tmp_path / "ledger.sqlite"):
        await _decide(client, 1)
        page = await _page(client, gate)
    [segment] = (tmp_path / "elsewhere").glob("*.spill")
    size = segment.stat().st_size
    roomy, tight = (with_budget(150, max_bytes=times * size) for times in (3, 1))
    assert _firing(page, page, roomy) == {"TidegateSpillWaits"}
    assert _firing(page, page, tight) == {"TidegateSpillWaits", "TidegateSpillFills"}
    await gate.keeper.drain()
    page = await _page(client, gate)
    assert _firing(page, page, tight) == set()


async def test_what_is_kept_aside_alerts(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    _replace_keeper(gate, tmp_path, with_budget(150))
    with held(tmp_path / "ledger.sqlite"):
        await _decide(client, 2)
    gate.keeper.close()
    [segment] = (tmp_path / "elsewhere").glob("*.spill")
    with segment.open("r+b") as file:
        file.seek(100)
        file.write(b"?")
    _replace_keeper(gate, tmp_path, with_budget(150))
    await gate.keeper.drain()
    page = await _page(client, gate)
    assert _firing(page, page) == {"TidegateSpillQuarantined"}


async def test_a_loop_that_fails_alerts(client: httpx.AsyncClient, gate: UploadGate) -> None:
    async def step() -> None:
        raise OSError("no such device")

    before = await _page(client, gate)
    task = asyncio.create_task(for_ever("routing", step, 0.001))
    await asyncio.sleep(0.05)
    between = await _page(client, gate)
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    after = await _page(client, gate)
    assert _firing(between, after) == {"TidegateLoopFails"}
    assert _firing(after, after) == set()
    assert "TidegateSpillWaits" not in _firing(before, after)


def _replace_keeper(gate: UploadGate, home: Path, rules: ServingRules) -> None:
    KeyRing(home / "keys.sqlite").of(["seller-1"])
    gate.keeper.close()
    ledger = SqliteLedger(home / "ledger.sqlite", busy_s=0.15, may_be_late=True)
    gate.keeper = a_keeper(home, ledger, rules, spill_folder=home / "elsewhere")


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_contract_has_it(name: str) -> None:
    assert name in {alert.name for alert in alerts(SERVING)}
