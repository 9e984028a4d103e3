"""A gateway starts where its ledger cannot be opened: it spills, holds and repeats nothing, and heals by itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.events import EventKind
from moderation.errors import SettingsError
from moderation.settings import Settings
from serving.gateway.__main__ import build_gate
from serving.gateway.app import create_app
from serving.gateway.audit import audit_salt
from serving.gateway.auth import Callers
from serving.gateway.behaviour import BudgetedBehaviour
from serving.gateway.breaker import Breaker
from serving.gateway.gate import UploadGate
from serving.gateway.safeguards import AUDIT_SALT
from serving.routing import Route, RoutingTable, write_table
from tests.folded_behaviour import FoldedBehaviour
from tests.kept import SERVING
from tests.small_disk import unwritable
from tests.unit.serving.fakes import BUNDLE, TOKENS, FakePredictor, an_upload

HEALED_S = 30.0


@pytest.fixture
async def built(tmp_path: Path, predictor: FakePredictor) -> AsyncIterator[UploadGate]:
    """The gate of the settings, built while a folder lies where the ledger should."""
    (tmp_path / "ledger.sqlite").mkdir()
    releases = {BUNDLE: Route(url=predictor.url, weight=1.0)}
    routing = tmp_path / "routing.json"
    write_table(routing, RoutingTable(revision=1, champion=BUNDLE, releases=releases))
    gate = build_gate(Settings(home=tmp_path), routing)
    yield gate
    await gate.close()


async def _sent(gate: UploadGate, number: int) -> dict[str, Any]:
    transport = httpx.ASGITransport(create_app(gate, Callers(TOKENS)))
    headers = {"Authorization": "Bearer adm1n"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=headers
    ) as client:
        listing = {"listing_id": f"l{number}", "seller_id": "seller-1", "title": "Blue bicycle"}
        body = an_upload(submission_id=f"u{number}", listing=listing)
        response = await client.post("/v1/decisions", json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def _drained(gate: UploadGate) -> None:
    async with asyncio.timeout(HEALED_S):
        while (await gate.keeper.state())["spill"] != "ok":
            await gate.keeper.drain()
            await asyncio.sleep(0.1)


async def test_a_gateway_starts_without_its_ledger_and_heals(
    built: UploadGate, tmp_path: Path, predictor: FakePredictor
) -> None:
    predictor.probability_P = [0.95, 0.02, 0.03]
    first = await _sent(built, 1)
    assert first["tier"] == "review", "while nobody knows whether enforcement was stopped"
    assert "ledger: spilled" in first["evidence"]["degraded"]

    (tmp_path / "ledger.sqlite").rmdir()
    await _drained(built)
    await built.run(built.safeguards.step, built.ledger)
    assert built.ledger.get_decision(first["trace_id"]) is not None
    kinds = [EventKind.SUBMISSION, EventKind.DECISION]
    assert [one.event.submission_id for one in built.ledger.read(kinds)] == ["u1", "u1"]
    assert (await _sent(built, 2))["tier"] == "block"


async def test_nothing_is_given_again_before_the_ledger_was_followed(
    built: UploadGate, tmp_path: Path, predictor: FakePredictor
) -> None:
    breaker = Breaker("features", SERVING.breakers.features, built.clock)
    built.behaviour.close()
    built.behaviour = BudgetedBehaviour(FoldedBehaviour(built.ledger), breaker)
    await _sent(built, 1)
    (tmp_path / "ledger.sqlite").rmdir()
    await _drained(built)
    assert (await _sent(built, 2))["evidence"]["decided_by"] == "model"
    await built.run(built.cascade.refresh)
    assert (await _sent(built, 3))["evidence"]["decided_by"] == "model"
    assert (await _sent(built, 4))["evidence"]["decided_by"] == "duplicate"
    assert len(predictor.requests) == 3


async def test_a_gateway_starts_in_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    config = Settings(home=home, spill_folder=tmp_path / "spill")
    with (
        unwritable(home),
        pytest.raises(SettingsError, match=r"audit\.salt cannot be read or made"),
    ):
        build_gate(config, home / "routing.json")
    audit_salt(home / AUDIT_SALT)
    with unwritable(home):
        gate = build_gate(config, home / "routing.json")
        assert await gate.keeper.can_keep()
        assert (await gate.keeper.state())["ledger"] == "unable to open database file"
    await _drained(gate)
    assert (await gate.keeper.state())["ledger"] == "ok"
    await gate.close()
