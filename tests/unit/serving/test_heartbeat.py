import asyncio
import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.spill import SpillState
from moderation.clock import SimulatedClock
from serving.gateway.gate import UploadGate
from serving.gateway.heartbeat import GatewayBeat, read_beats, write_beat
from serving.routing import Route, Router, RoutingTable, write_table
from tests.unit.serving.fakes import BUNDLE, NOON, FakePredictor, an_upload
from tests.unit.serving.guarded import breaker_rules, guard, heartbeat_rules, shadow_rules


def a_beat(**changes: Any) -> GatewayBeat:
    plain: dict[str, Any] = {
        "gateway": "g1",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started_at": NOON,
        "at": NOON,
        "revision": 1,
        "renewal": 0,
        "lease": "no candidate",
        "arms": {},
        "shadow": None,
        "breakers": {},
        "enforcement": None,
    }
    return GatewayBeat.model_validate(plain | changes)


async def test_heartbeat_says_what_the_gateway_applies_and_does(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(
        gate,
        tmp_path,
        heartbeat=heartbeat_rules(),
        prediction_breaker=breaker_rules(),
        shadow=shadow_rules(),
    )
    predictor.probability_P = [0.95, 0.0, 0.0]
    await client.post("/v1/decisions", json=an_upload())
    predictor.delay_s = 1.0
    waiting = asyncio.create_task(client.post("/v1/decisions", json=an_upload()))
    while len(predictor.requests) < 2:
        await asyncio.sleep(0.01)
    gate.safeguards.beat()
    [seen] = read_beats(tmp_path / "gateways", gate.clock.now(), stale_s=5.0)
    beat = seen.beat
    assert seen.is_alive
    assert (beat.gateway, beat.pid, beat.revision) == ("g1", os.getpid(), 7)
    assert (beat.lease, beat.enforcement) == ("no candidate", "automatic")
    assert (beat.arms["champion"].requests, beat.arms["champion"].in_flight) == (2, 1)
    assert (beat.arms["candidate"].requests, beat.arms["candidate"].in_flight) == (0, 0)
    assert beat.breakers == dict.fromkeys(
        ["ledger", "ledger reads", f"predictor {predictor.url}"], "closed"
    )
    assert beat.spill == SpillState(0, 0, 0, 0)
    assert beat.shadow is not None
    assert [found["weapons"] for found in beat.enforced.values()] == [1]
    await waiting
    metrics = (await client.get("/metrics")).text
    assert 'tidegate_gateway_arm_in_flight{arm="champion"} 0.0' in metrics


async def test_heartbeat_comes_from_the_running_app(gate: UploadGate, tmp_path: Path) -> None:
    from serving.gateway.app import create_app
    from serving.gateway.auth import Callers

    guard(gate, tmp_path, heartbeat=heartbeat_rules())
    app = create_app(gate, Callers(""))
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(20):
            while not list((tmp_path / "gateways").glob("*.json")):
                await asyncio.sleep(0.02)


def test_heartbeat_tells_the_lease_of_a_candidate(
    gate: UploadGate, predictor: FakePredictor, routing: Path, tmp_path: Path
) -> None:
    clock = SimulatedClock(NOON)
    other = "b" * 64
    releases = {BUNDLE: Route(url=predictor.url), other: Route(url=predictor.url, weight=0.1)}
    table = RoutingTable(revision=9, renewal=1, champion=BUNDLE, releases=releases)
    write_table(routing, table)
    gate.router = Router(routing, clock)
    guard(gate, tmp_path, clock=clock, heartbeat=heartbeat_rules())
    told = []
    for renewal in (1, 2):
        write_table(routing, table.model_copy(update={"renewal": renewal}))
        gate.router.refresh()
        clock.advance(1.0)
        gate.safeguards.beat()
        [seen] = read_beats(tmp_path / "gateways", clock.now(), stale_s=5.0)
        told.append((seen.beat.renewal, seen.beat.lease))
    assert told == [(1, "not live"), (2, "live")]


@pytest.mark.parametrize(
    ("changes", "age_s", "is_alive"),
    [
        ({}, 4.9, True),
        ({}, 5.1, False),
        ({"pid": 2**22 + 7}, 1.0, False),
        ({"pid": 2**22 + 7, "host": "elsewhere"}, 1.0, True),
    ],
)
def test_gateway_counts_as_gone_when_it_is_late_or_its_process_is(
    tmp_path: Path, changes: dict[str, Any], age_s: float, is_alive: bool
) -> None:
    write_beat(tmp_path, a_beat(**changes))
    [seen] = read_beats(tmp_path, NOON + timedelta(seconds=age_s), stale_s=5.0)
    assert seen.is_alive is is_alive


def test_heartbeat_of_a_long_gone_gateway_is_taken_away(tmp_path: Path) -> None:
    write_beat(tmp_path, a_beat(gateway="old"))
    write_beat(tmp_path, a_beat(gateway="dead", at=NOON + timedelta(minutes=30)))
    write_beat(tmp_path, a_beat(gateway="new", at=NOON + timedelta(minutes=70)))
    left = read_beats(tmp_path, NOON + timedelta(minutes=70), stale_s=5.0)
    assert [seen.beat.gateway for seen in left] == ["dead", "new"]


def test_file_that_is_no_heartbeat_is_passed_over(tmp_path: Path) -> None:
    write_beat(tmp_path, a_beat())
    (tmp_path / "torn.json").write_text('{"gateway": ')
    assert len(read_beats(tmp_path, NOON, stale_s=5.0)) == 1


def test_heartbeat_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "gateways").write_text("in the way")
    write_beat(tmp_path / "gateways", a_beat())
    assert read_beats(tmp_path / "gateways", NOON, stale_s=5.0) == ()
