"""The loops of a gateway outlive whatever goes wrong in one of their rounds."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.gate import UploadGate
from serving.gateway.keeping import LEDGER_SPILLED
from serving.gateway.loops import FAILED, for_ever
from tests.kept import a_keeper, with_budget
from tests.small_disk import held, unwritable
from tests.unit.serving.fakes import TOKENS, an_upload

PATIENCE_S = 20.0


def _failures(loop: str) -> float:
    return float(FAILED.labels(loop)._value.get())


async def _until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await is_so():
            await asyncio.sleep(0.02)


async def test_a_loop_goes_on_when_a_round_fails() -> None:
    rounds = 0

    async def step() -> None:
        nonlocal rounds
        rounds += 1
        if rounds % 2:
            raise OSError("a disk that comes and goes")

    async def has_gone_on() -> bool:
        return rounds >= 5

    before = _failures("of the test")
    task = asyncio.create_task(for_ever("of the test", step, 0.001))
    await _until(has_gone_on)
    assert not task.done()
    assert _failures("of the test") >= before + 3
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def running(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> AsyncIterator[None]:
    """The app with its loops, which drain a spill on another disk many times a second."""
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    gate.keeper.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite", busy_s=0.15, may_be_late=True)
    rules = with_budget(150, retry_s=0.05)
    gate.keeper = a_keeper(tmp_path, ledger, rules, spill_folder=tmp_path / "elsewhere")
    app = create_app(gate, Callers(TOKENS))
    async with app.router.lifespan_context(app):
        yield


async def test_a_spill_that_cannot_be_deleted_is_tried_again(
    client: httpx.AsyncClient, gate: UploadGate, running: None, tmp_path: Path
) -> None:
    async def spill(name: str) -> None:
        with held(tmp_path / "ledger.sqlite"):
            answer = await client.post("/v1/decisions", json=an_upload(submission_id=name))
        assert answer.status_code == 200

    async def says(text: str) -> bool:
        return text in (await gate.keeper.state())["spill"]

    await spill("first")
    with unwritable(tmp_path / "elsewhere"):
        await _until(lambda: says("cannot be moved"))
        assert gate.ledger.get_submission("first") is not None, "only its file is left"
    await _until(lambda: says("ok"))
    await spill("second")
    await _until(lambda: says("ok"))
    decision = gate.ledger.get_decision_of("second")
    assert decision is not None
    assert LEDGER_SPILLED in decision.degraded
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("loop", ["routing", "stage 1", "safeguards", "heartbeat", "spill"])
async def test_every_loop_of_the_app_outlives_a_bad_round(
    gate: UploadGate, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {
        "routing": (gate.router, "refresh"),
        "stage 1": (gate.cascade, "refresh"),
        "safeguards": (gate.safeguards, "step"),
        "heartbeat": (gate.safeguards, "beat"),
        "spill": (gate.keeper._drainer, "drain"),
    }
    part, name = parts[loop]
    real, calls = getattr(part, name), list[object]()

    def fails_once(*args: object) -> object:
        calls.append(args)
        if len(calls) == 1:
            raise RuntimeError("once")
        return real(*args)

    async def was_called_again() -> bool:
        return len(calls) > 1

    before = _failures(loop)
    monkeypatch.setattr(part, name, fails_once)
    app = create_app(gate, Callers(TOKENS))
    async with app.router.lifespan_context(app):
        await _until(was_called_again)
    assert _failures(loop) == before + 1
