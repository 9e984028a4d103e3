"""The gateway when a disk neither works nor fails: calls that hang are left behind, uploads are answered and kept."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.events import EventKind
from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.explanations import ExplainerClient
from serving.gateway.gate import UploadGate
from serving.gateway.keeping import CONTENT_SPILLED, LEDGER_SPILLED
from serving.gateway.shadow import ShadowTarget
from tests.kept import SERVING, a_keeper, with_budget
from tests.unit.serving.conftest import a_cascade
from tests.unit.serving.fakes import TOKENS, a_photo, an_upload, as_text
from tests.unit.serving.guarded import breaker_rules, guard, heartbeat_rules, shadow_rules

ADMIN = {"Authorization": "Bearer adm1n"}
ANSWER_S = 3.0
"""Within which an upload is answered though a disk hangs: several budgets of 150 ms, on a busy machine."""

_KEPT = frozenset({"put", "append_each", "move_each", "put_sealed"})
_READ = frozenset({"last_sequence", "read", "get_event", "get_decision", "get_decision_of", "get"})
_HANGS = _KEPT | _READ | {"is_erased", "append"}


class Hanging:
    """What it wraps, whose calls wait for ever while it hangs."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._is_well = threading.Event()
        self._is_well.set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _HANGS:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._is_well.wait()
            return found(*args, **kwargs)

        return call

    @contextmanager
    def hung(self) -> Iterator[None]:
        self._is_well.clear()
        try:
            yield
        finally:
            self._is_well.set()


@pytest.fixture
async def ledger(gate: UploadGate, tmp_path: Path) -> Hanging:
    """A ledger that can hang, below a gate that gives answers again."""
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    gate.keeper.close()
    hanging = Hanging(SqliteLedger(tmp_path / "ledger.sqlite"))
    gate.keeper = a_keeper(tmp_path, hanging, with_budget(150), spill_folder=tmp_path / "spill")  # type: ignore[arg-type]
    duplicates = SERVING.stage_1.duplicates
    gate.cascade = a_cascade(tmp_path, hanging, gate.clock, duplicates=duplicates)
    return hanging


async def _send(client: httpx.AsyncClient, number: int, title: str, **more: Any) -> httpx.Response:
    listing = {"listing_id": f"l{number}", "seller_id": "seller-1", "title": title}
    async with asyncio.timeout(ANSWER_S):
        sent = an_upload(listing=listing, **more)
        return await client.post("/v1/decisions", json=sent, headers=ADMIN)


async def test_repeats_and_fresh_uploads_are_answered_while_the_ledger_hangs(
    client: httpx.AsyncClient, gate: UploadGate, ledger: Hanging
) -> None:
    assert (await _send(client, 0, "Blue")).status_code == 200
    before = (await _send(client, 1, "Blue")).json()
    assert before["evidence"]["decided_by"] == "duplicate"
    with ledger.hung():
        repeats = [_send(client, 10 + number, "Blue") for number in range(12)]
        answers = await asyncio.gather(*repeats, _send(client, 50, "Fresh"))
    decided = [one.json()["evidence"] for one in answers]
    assert {one["decided_by"] for one in decided} == {"model"}, (
        "what cannot be read is not repeated"
    )
    assert all(LEDGER_SPILLED in one["degraded"] for one in decided)
    await gate.keeper.drain()
    kinds = [EventKind.SUBMISSION, EventKind.DECISION]
    for one in decided:
        found = [event.event.kind for event in gate.ledger.read() if _is_of(event, one)]
        assert found == kinds


def _is_of(stored: Any, decision: dict[str, Any]) -> bool:
    return bool(stored.event.submission_id == decision["submission_id"])


async def test_uploads_with_ids_of_their_own_are_answered_while_the_ledger_hangs(
    client: httpx.AsyncClient, ledger: Hanging
) -> None:
    with ledger.hung():
        for number in range(8):
            sent = await _send(client, number, f"t{number}", submission_id=f"s{number}")
            assert LEDGER_SPILLED in sent.json()["evidence"]["degraded"]
        again = await _send(client, 7, "t7", submission_id="s7")
        assert again.headers["idempotent-replay"] == "true"


async def test_uploads_are_answered_while_the_content_store_hangs(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    gate.keeper.close()
    gate.keeper = a_keeper(tmp_path, SqliteLedger(tmp_path / "ledger.sqlite"), with_budget(150))
    store = Hanging(ContentStore(tmp_path / "content", durable=True))
    gate.keeper.store = store  # type: ignore[assignment]
    with store.hung():
        answers = [
            await _send(client, n, f"t{n}", images=[as_text(a_photo(size=(40 + n, 30)))])
            for n in range(12)
        ]
        decided = [one.json()["evidence"] for one in answers]
        assert all(CONTENT_SPILLED in one["degraded"] for one in decided)
    await gate.keeper.drain()
    for one in decided:
        assert all(map(store.has, one["input_digests"].values()))


async def test_a_gateway_whose_ledger_hangs_still_shows_that_it_lives(
    gate: UploadGate, ledger: Hanging, tmp_path: Path
) -> None:
    guard(gate, tmp_path, heartbeat=heartbeat_rules(), prediction_breaker=breaker_rules())
    app = create_app(gate, Callers(""))
    with ledger.hung():
        async with app.router.lifespan_context(app), asyncio.timeout(8):
            seen: set[int] = set()
            while len(seen) < 2:
                seen |= {one.stat().st_mtime_ns for one in (tmp_path / "gateways").glob("*.json")}
                await asyncio.sleep(0.05)
            ledger._is_well.set()


async def test_uploads_are_answered_while_admins_wait_for_a_ledger_that_hangs(
    client: httpx.AsyncClient, gate: UploadGate, ledger: Hanging, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    gate.budgets = gate.budgets.model_copy(update={"total_ms": 1_500})
    stop = {"state": "stopped", "reason": "a test of what hangs"}
    with ledger.hung():
        asked = [
            asyncio.create_task(client.post("/v1/enforcement", json=stop, headers=ADMIN))
            for _ in range(12)
        ]
        await asyncio.sleep(0.1)
        assert (await _send(client, 1, "Blue")).status_code == 200
        assert not any(one.done() for one in asked)
        answers = await asyncio.gather(*asked)
    assert {one.status_code for one in answers} == {503}
    assert {one.json()["error"] for one in answers} == {"LedgerUnavailable"}
    assert "look at GET /v1/enforcement" in answers[0].json()["message"]
    # What was begun is done once the ledger answers; what only waited for its turn is not.
    async with asyncio.timeout(5):
        while not (await client.get("/v1/enforcement", headers=ADMIN)).json()["number"]:
            await asyncio.sleep(0.02)
    again = await client.post("/v1/enforcement", json=stop, headers=ADMIN)
    assert (again.status_code, again.json()["error"]) == (409, "NothingToChange")


async def test_uploads_are_answered_while_reviewers_wait_for_a_content_store_that_hangs(
    gate: UploadGate, ledger: Hanging
) -> None:
    app = create_app(gate, Callers(TOKENS), explainer=ExplainerClient("http://127.0.0.1:9", 1.0))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=ADMIN
    ) as client:
        trace_id = (await _send(client, 1, "Blue")).json()["trace_id"]
        store = Hanging(gate.keeper.store)
        gate.keeper.store = store  # type: ignore[assignment]
        path = f"/v1/decisions/{trace_id}/explanation"
        with store.hung():
            asked = [asyncio.create_task(client.get(path)) for _ in range(12)]
            await asyncio.sleep(0.1)
            assert (await _send(client, 2, "Red")).status_code == 200
            answers = await asyncio.gather(*asked)
    said = [(one.status_code, one.json()["error"]) for one in answers]
    assert said.count((503, "ContentUnavailable")) == 4
    assert said.count((503, "ExplainerUnavailable")) == 8, "more are not made at once"
    assert all(int(one.headers["retry-after"]) >= 1 for one in answers)


async def test_enforcement_can_be_stopped_while_the_content_store_hangs(
    gate: UploadGate, ledger: Hanging, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    app = create_app(gate, Callers(TOKENS), explainer=ExplainerClient("http://127.0.0.1:9", 0.5))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://gateway", headers=ADMIN
    ) as client:
        trace_id = (await _send(client, 1, "Blue")).json()["trace_id"]
        store = Hanging(gate.keeper.store)
        gate.keeper.store = store  # type: ignore[assignment]
        path = f"/v1/decisions/{trace_id}/explanation"
        with store.hung():
            asked = await asyncio.gather(*(client.get(path) for _ in range(4)))
            assert {one.status_code for one in asked} == {503}
            stop = {"state": "stopped", "reason": "what is asked for aside hangs"}
            stopped = await client.post("/v1/enforcement", json=stop)
    assert (stopped.status_code, stopped.json()["state"]) == (200, "stopped")


async def test_a_gateway_stops_in_time_while_its_ledger_hangs(
    client: httpx.AsyncClient, gate: UploadGate, ledger: Hanging, tmp_path: Path
) -> None:
    guard(gate, tmp_path, shadow=shadow_rules())
    shadow = gate.safeguards.shadow
    assert shadow is not None
    decision = gate.ledger.get_decision((await _send(client, 1, "Blue")).json()["trace_id"])
    assert decision is not None
    answer = shadow._answer(ShadowTarget("b" * 64, "", {}, 1), decision, decision.attempts[0])
    shadow._answers.append((answer, "seller-1"))
    gate.budgets = gate.budgets.model_copy(update={"ledger_ms": 150})
    with ledger.hung():
        async with asyncio.timeout(ANSWER_S):
            await gate.close()
    assert shadow.has_answers
    shadow._answers.clear()
