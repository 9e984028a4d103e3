"""The shadow beside real gRPC predictors: slow, dead, another bundle; nothing of it reaches the answer."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.events import EventKind
from ledger.keys import KeyRing
from ledger.ledger import LedgerUnavailable, SqliteLedger
from ledger.pairs import Pair, pairs
from serving.gateway.gate import UploadGate
from serving.gateway.heartbeat import ShadowTraffic
from serving.gateway.shadow import Shadow
from serving.routing import Route, RoutingTable, write_table
from tests.unit.serving.fakes import BUNDLE, FakePredictor, a_release, an_upload
from tests.unit.serving.guarded import guard, shadow_rules
from tidegate.erasing import belonging

OTHER = "b" * 64


@pytest.fixture
async def beside() -> AsyncIterator[FakePredictor]:
    fake = FakePredictor()
    fake.release = a_release(bundle=OTHER)
    fake.probability_P = [0.99, 0.0, 0.0]
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
def shadowed(
    gate: UploadGate, predictor: FakePredictor, beside: FakePredictor, routing: Path, tmp_path: Path
) -> UploadGate:
    releases = {BUNDLE: Route(url=predictor.url, weight=1.0), OTHER: Route(url=beside.url)}
    table = RoutingTable(revision=8, champion=BUNDLE, releases=releases, shadow=OTHER)
    write_table(routing, table)
    gate.router.refresh()
    return guard(gate, tmp_path, shadow=shadow_rules())


def _shadow(gate: UploadGate) -> Shadow:
    assert gate.safeguards.shadow is not None
    return gate.safeguards.shadow


async def _decide(client: httpx.AsyncClient) -> Any:
    return (await client.post("/v1/decisions", json=an_upload())).json()


async def _pairs(gate: UploadGate, expected: int) -> list[Pair]:
    """Return the pairs in the ledger, as soon as there are so many."""
    async with asyncio.timeout(20):
        while True:
            gate.safeguards.step(gate.ledger)
            found = list(pairs(gate.ledger))
            if len(found) >= expected:
                return found
            await asyncio.sleep(0.01)


async def test_shadow_gets_the_same_request_and_makes_a_pair(
    client: httpx.AsyncClient,
    shadowed: UploadGate,
    predictor: FakePredictor,
    beside: FakePredictor,
) -> None:
    answer = await _decide(client)
    assert answer["tier"] == "allow"
    [pair] = await _pairs(shadowed, 1)
    assert pair.trace_id == answer["trace_id"]
    assert pair.submission_id == answer["submission_id"]
    assert (pair.answer.role, pair.answer.release, pair.answer.tier) == ("answer", BUNDLE, "allow")
    assert (pair.shadow.role, pair.shadow.release, pair.shadow.tier) == ("shadow", OTHER, "block")
    asked, also = predictor.requests[0], beside.requests[0]
    assert also.raw_input_contents == asked.raw_input_contents
    assert [one.contents for one in also.inputs] == [one.contents for one in asked.inputs]
    lines = [one.parameters["priority"].string_param for one in (asked, also)]
    assert lines == ["upload", "backfill"], "a shadow waits behind uploads at the predictor, too"
    decision = shadowed.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert (decision.tier, len(decision.attempts)) == ("allow", 1)
    assert not list(shadowed.ledger.read([EventKind.REVIEW_TASK]))


async def test_repeated_upload_has_one_shadow(
    client: httpx.AsyncClient, shadowed: UploadGate, beside: FakePredictor
) -> None:
    for _ in range(2):
        await client.post("/v1/decisions", json=an_upload(submission_id="mine-1"))
    assert len(await _pairs(shadowed, 1)) == 1
    assert len(beside.requests) == 1


async def test_slow_shadow_delays_no_answer_and_times_out(
    client: httpx.AsyncClient, shadowed: UploadGate, beside: FakePredictor, tmp_path: Path
) -> None:
    guard(shadowed, tmp_path, shadow=shadow_rules(timeout_s=2.5))
    beside.delay_s = 5.0
    begin = shadowed.clock.monotonic()
    await _decide(client)
    assert shadowed.clock.monotonic() - begin < 2.5
    [pair] = await _pairs(shadowed, 1)
    assert (pair.answer.status, pair.shadow.status) == ("ok", "timeout")


async def test_dead_shadow_is_left_alone_after_a_while(
    client: httpx.AsyncClient, shadowed: UploadGate, beside: FakePredictor
) -> None:
    await beside.stop()
    for _ in range(14):
        assert (await _decide(client))["reasons"] == []
        await asyncio.sleep(0.02)
    found = await _pairs(shadowed, 10)
    assert {pair.shadow.status for pair in found} == {"error"}
    counts = _shadow(shadowed).counts()
    assert counts.sent == counts.failed == len(found) < 14
    assert counts.sent + counts.shed == 14
    assert "open" in _shadow(shadowed).states().values()
    assert set(shadowed.breakers.states().values()) == {"closed"}, "the answer's breaker is another"


async def test_shadow_that_serves_another_bundle_is_an_error_of_its_own(
    client: httpx.AsyncClient, shadowed: UploadGate, beside: FakePredictor
) -> None:
    beside.release = a_release(bundle="c" * 64)
    await _decide(client)
    [pair] = await _pairs(shadowed, 1)
    assert pair.shadow.status == "error"
    assert pair.shadow.error is not None
    assert "not bbbb" in pair.shadow.error


@pytest.mark.parametrize(
    "limit", [{"max_in_flight": 1}, {"max_kept": 1}, {"shed_above": 0}, {"max_mib_in_flight": 1}]
)
async def test_shadow_is_shed_when_it_costs_too_much(
    client: httpx.AsyncClient,
    shadowed: UploadGate,
    beside: FakePredictor,
    tmp_path: Path,
    limit: dict[str, int],
) -> None:
    guard(shadowed, tmp_path, shadow=shadow_rules(**limit))
    beside.delay_s = 0.3
    sheds_all = "shed_above" in limit
    if "max_mib_in_flight" in limit:
        _shadow(shadowed)._bytes_in_flight = 2**20  # as if large photos waited
        sheds_all = True
    for _ in range(3):
        if sheds_all and "shed_above" in limit:
            with shadowed.safeguards.traffic.upload():
                await _decide(client)
        else:
            await _decide(client)
    await asyncio.sleep(0.05)
    sent = 0 if sheds_all else 1
    assert _shadow(shadowed).counts() == ShadowTraffic(sent=sent, shed=3 - sent)


async def test_answers_of_a_shadow_wait_when_the_ledger_fails(
    client: httpx.AsyncClient, shadowed: UploadGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _decide(client)
    await asyncio.sleep(0.2)

    def fails(_: object) -> int:
        raise LedgerUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(shadowed.ledger, "append", fails)
        shadowed.safeguards.step(shadowed.ledger)
    assert list(pairs(shadowed.ledger)) == []
    assert len(await _pairs(shadowed, 1)) == 1


async def test_no_shadow_is_asked_when_the_contract_or_the_table_has_none(
    client: httpx.AsyncClient,
    shadowed: UploadGate,
    beside: FakePredictor,
    predictor: FakePredictor,
    routing: Path,
    tmp_path: Path,
) -> None:
    guard(shadowed, tmp_path)
    await _decide(client)
    guard(shadowed, tmp_path, shadow=shadow_rules())
    releases = {BUNDLE: Route(url=predictor.url, weight=1.0), OTHER: Route(url=beside.url)}
    write_table(routing, RoutingTable(revision=9, champion=BUNDLE, releases=releases))
    shadowed.router.refresh()
    await _decide(client)
    itself = RoutingTable(revision=10, champion=BUNDLE, releases=releases, shadow=BUNDLE)
    write_table(routing, itself)
    shadowed.router.refresh()
    await _decide(client)
    await asyncio.sleep(0.05)
    assert beside.requests == []
    assert _shadow(shadowed).counts() == ShadowTraffic()


async def test_answer_of_a_shadow_is_sealed_with_its_seller(
    client: httpx.AsyncClient, shadowed: UploadGate
) -> None:
    await _decide(client)
    await _pairs(shadowed, 1)
    [stored] = shadowed.ledger.read([EventKind.SHADOW])
    assert stored.event.seller_id == "seller-1"


async def test_answer_of_a_shadow_is_dropped_when_its_seller_was_erased(
    client: httpx.AsyncClient, shadowed: UploadGate, tmp_path: Path
) -> None:
    for seller_id in ("seller-1", "seller-2"):
        listing = an_upload()["listing"] | {"seller_id": seller_id}
        await client.post("/v1/decisions", json=an_upload(listing=listing))
    assert isinstance(shadowed.ledger, SqliteLedger)
    shadowed.ledger.erase("seller-1", belonging, shadowed.clock.now())
    await _pairs(shadowed, 1)
    await asyncio.sleep(0.1)
    shadowed.safeguards.step(shadowed.ledger)
    sellers = [s.event.seller_id for s in shadowed.ledger.read([EventKind.SHADOW])]
    assert sellers == ["seller-2"]
    assert KeyRing(tmp_path / "keys.sqlite").find("seller-1") is None
