"""The gateway when its ledger fails for real: held, full, read-only, unreadable; nothing is lost, all of it is said."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.events import EventKind
from ledger.keys import KeyRing
from ledger.ledger import SqliteLedger
from ledger.spill import SpillState
from moderation.clock import SystemClock
from moderation.serving_rules import BreakerRules
from serving.gateway.gate import UploadGate
from serving.gateway.heartbeat import GatewayBeat, read_beats
from serving.gateway.keeping import CONTENT_SPILLED, LEDGER_SPILLED, SPILLED, Keeper
from tests.kept import a_keeper, with_budget
from tests.small_disk import fill, held, small_disk, unwritable
from tests.unit.serving.fakes import an_upload
from tests.unit.serving.guarded import guard, heartbeat_rules
from tidegate.erasing import belonging

REVIEWER = {"Authorization": "Bearer r3view"}
RULES = with_budget(150)
TRUTH = {"policy": "weapons", "violates": True, "source": "review"}


def _replace_keeper(gate: UploadGate, home: Path, spill_folder: Path, **rules: Any) -> Keeper:
    gate.keeper.close()
    ledger = SqliteLedger(home / "ledger.sqlite", busy_s=0.15, may_be_late=True)
    own_rules = RULES.model_copy(update=rules) if rules else RULES
    gate.keeper = a_keeper(home, ledger, own_rules, spill_folder=spill_folder)
    return gate.keeper


@pytest.fixture
async def keeper(gate: UploadGate, tmp_path: Path) -> Keeper:
    """A keeper that loses patience, in a home whose seller is known."""
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    return _replace_keeper(gate, tmp_path, tmp_path / "elsewhere")


async def _decide(client: httpx.AsyncClient, name: str, **changes: Any) -> httpx.Response:
    return await client.post(
        "/v1/decisions",
        json=an_upload(submission_id=name, **changes),
        headers={"Authorization": "Bearer adm1n"},
    )


def _kinds(gate: UploadGate, name: str) -> list[EventKind]:
    return [one.event.kind for one in gate.ledger.read() if one.event.submission_id == name]


async def test_a_held_ledger_is_spilled_and_found_and_moved(
    client: httpx.AsyncClient, gate: UploadGate, keeper: Keeper, tmp_path: Path
) -> None:
    before = await _decide(client, "early")
    assert before.json()["evidence"]["degraded"] == []
    count = (
        SPILLED.labels("event", "error")._value.get()
        + SPILLED.labels("event", "timeout")._value.get()
    )
    with held(tmp_path / "ledger.sqlite"):
        first = await _decide(client, "mine-1")
        answer = first.json()
        assert first.status_code == 200
        assert LEDGER_SPILLED in answer["evidence"]["degraded"]
        again = await _decide(client, "mine-1")
        assert again.headers["idempotent-replay"] == "true"
        assert again.json()["decision_id"] == answer["decision_id"]
        other = await _decide(client, "mine-1", listing={"listing_id": "l9", "title": "Other"})
        assert other.status_code == 409
        found = await client.get(f"/v1/decisions/{answer['trace_id']}", headers=REVIEWER)
        assert found.json()["evidence"]["degraded"] == [LEDGER_SPILLED]
        repeated = await _decide(client, "early")
        assert repeated.headers["idempotent-replay"] == "true", "a held ledger can be read"
        truth = {"ground_truth_id": "t1", "submission_id": "mine-1"} | TRUTH
        said = await client.post("/v1/ground-truth", json=truth, headers=REVIEWER)
        assert said.json() == {"ground_truth_id": "t1", "recorded": True}
        ready = (await client.get("/readyz")).json()
        assert (ready["ready"], ready["checks"]["spill"]) == (
            True,
            "3 events and 0 blobs wait to be moved",
        )
        await keeper.drain()
        assert _kinds(gate, "mine-1") == []
        metrics = (await client.get("/metrics")).text
        assert 'tidegate_spill_waiting{what="event"} 3.0' in metrics
    after = (
        SPILLED.labels("event", "error")._value.get()
        + SPILLED.labels("event", "timeout")._value.get()
    )
    assert after > count
    await keeper.drain()
    assert _kinds(gate, "mine-1") == [
        EventKind.SUBMISSION,
        EventKind.DECISION,
        EventKind.GROUND_TRUTH,
    ]
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert decision.model_dump(mode="json") == answer["evidence"], (
        "what was answered is what is kept"
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (await client.get("/readyz")).json()["checks"]["spill"] == "ok"


def _beat(gate: UploadGate, home: Path) -> GatewayBeat:
    """Return what the gateway says of itself now."""
    guard(gate, home, heartbeat=heartbeat_rules()).safeguards.beat()
    [seen] = read_beats(home / "gateways", gate.clock.now(), stale_s=5.0)
    return seen.beat


async def test_an_open_circuit_spills_at_once(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    rules = RULES.breakers.model_copy(
        update={"ledger": BreakerRules(calls=2, share=0.5, open_s=0.3)}
    )
    keeper = _replace_keeper(gate, tmp_path, tmp_path / "elsewhere", breakers=rules)
    left_alone, clock = SPILLED.labels("event", "left alone"), SystemClock()
    with held(tmp_path / "ledger.sqlite"):
        for number in range(3):
            assert (await _decide(client, f"u{number}")).status_code == 200
        assert left_alone._value.get() >= 1
        ready = (await client.get("/readyz")).json()
        assert ready["checks"]["ledger"] == "left alone; events are spilled"
        assert ready["ready"]
        spilling = _beat(gate, tmp_path)
        assert spilling.breakers["ledger"] != "closed"
        assert spilling.spill is not None
        assert spilling.spill.events == 6
    deadline = clock.monotonic() + 10
    while (await _decide(client, f"after-{clock.monotonic()}")).json()["evidence"]["degraded"]:
        assert clock.monotonic() < deadline, "it recovers by itself"
        await keeper.drain()
    await keeper.drain()
    for number in range(3):
        assert _kinds(gate, f"u{number}") == [EventKind.SUBMISSION, EventKind.DECISION]
    recovered = _beat(gate, tmp_path)
    assert recovered.breakers["ledger"] == "closed"
    assert recovered.spill == SpillState(0, 0, 0, 0)


async def test_a_full_disk_loses_nothing(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "2m") as home:
        KeyRing(home / "keys.sqlite").of(["seller-1"])
        keeper = _replace_keeper(gate, home, tmp_path / "elsewhere")
        assert (await _decide(client, "early")).status_code == 200
        filler = fill(home)
        said = [
            (
                await _decide(
                    client,
                    f"u{n}",
                    listing={"listing_id": f"l{n}", "seller_id": "seller-1", "title": f"T{n}"},
                )
            ).json()["evidence"]["degraded"]
            for n in range(30)
        ]
        assert said[-1] == [CONTENT_SPILLED, LEDGER_SPILLED]
        stranger = await _decide(
            client, "x", listing={"listing_id": "lx", "seller_id": "new", "title": "T"}
        )
        assert stranger.status_code == 503, "no key can be made, so nothing of it may be kept"
        assert int(stranger.headers["retry-after"]) >= 1
        await keeper.drain()
        assert (await client.get("/readyz")).json()["ready"]
        filler.unlink()
        await keeper.drain()
        for n in range(30):
            assert _kinds(gate, f"u{n}") == [EventKind.SUBMISSION, EventKind.DECISION]
            decision = gate.ledger.get_decision_of(f"u{n}")
            assert decision is not None
            assert all(map(gate.store.has, decision.input_digests.values()))
        assert _kinds(gate, "x") == []
        assert list((tmp_path / "elsewhere").iterdir()) == []
        gate.keeper.close()
        gate.keeper = a_keeper(tmp_path, SqliteLedger(tmp_path / "ledger.sqlite"))


async def test_an_upload_is_refused_where_neither_can_keep_it(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "keys.sqlite").of(["seller-1"])
    with small_disk(tmp_path / "disk", "1m") as disk:
        keeper = _replace_keeper(gate, tmp_path, disk / "spill")
        filler = fill(disk)
        with held(tmp_path / "ledger.sqlite"):
            refused = await _decide(client, "mine-1")
            assert refused.status_code == 503
            assert refused.json()["error"] == "SpillUnavailable"
            assert int(refused.headers["retry-after"]) >= 1
            for _ in range(20):
                await _decide(client, "mine-1")
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert "No space left on device" in refused.json()["message"]
            assert str(tmp_path) not in refused.text + ready.text, "nobody is told where files lie"
        filler.unlink()
        await keeper.drain()
        assert _kinds(gate, "mine-1") == [], "nothing of it was accepted"
        assert list((disk / "spill").glob("*")) == []
        keeper.close()
        gate.keeper = a_keeper(tmp_path, SqliteLedger(tmp_path / "ledger.sqlite"))
    assert (await _decide(client, "mine-1")).status_code == 200


async def test_a_read_only_file_is_spilled(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    KeyRing(tmp_path / "opened" / "keys.sqlite").of(["seller-1"])
    SqliteLedger(tmp_path / "opened" / "ledger.sqlite")
    shutil.copytree(tmp_path / "opened", home)  # SQLite reuses descriptors that it holds open
    with unwritable(home / "ledger.sqlite"):
        keeper = _replace_keeper(gate, home, tmp_path / "elsewhere")
        answer = (await _decide(client, "mine-1")).json()
        assert LEDGER_SPILLED in answer["evidence"]["degraded"]
    _replace_keeper(gate, home, tmp_path / "elsewhere")
    await gate.keeper.drain()
    assert keeper is not gate.keeper, "restarted"
    assert _kinds(gate, "mine-1") == [EventKind.SUBMISSION, EventKind.DECISION]


async def test_a_gateway_starts_where_the_ledger_cannot_even_be_read(
    client: httpx.AsyncClient, gate: UploadGate, tmp_path: Path
) -> None:
    """Whether an upload came before cannot be found out, so it is decided; what was there before it wins later."""
    home = tmp_path / "home"
    _replace_keeper(gate, tmp_path / "opened", tmp_path / "elsewhere")
    early = (await _decide(client, "early")).json()
    shutil.copytree(tmp_path / "opened", home)  # nobody has these files open
    with held(home / "ledger.sqlite", mode="EXCLUSIVE"):
        keeper = _replace_keeper(gate, home, tmp_path / "elsewhere")
        mine = (await _decide(client, "mine-1")).json()
        assert mine["evidence"]["degraded"] == [LEDGER_SPILLED]
        assert (await _decide(client, "mine-1")).json()["decision_id"] == mine["decision_id"]
        again = (await _decide(client, "early")).json()
        assert again["decision_id"] != early["decision_id"]
        unknown = await client.get(f"/v1/decisions/{'e' * 32}", headers=REVIEWER)
        assert unknown.status_code == 503
        ready = await client.get("/readyz")
        assert str(tmp_path) not in unknown.text + ready.text
    await keeper.drain()
    assert _kinds(gate, "mine-1") == [EventKind.SUBMISSION, EventKind.DECISION]
    assert _kinds(gate, "early") == [EventKind.SUBMISSION, EventKind.DECISION]
    kept = gate.ledger.get_decision_of("early")
    assert kept is not None
    assert kept.decision_id == early["decision_id"]
    assert "1 frames are kept aside" in (await client.get("/readyz")).json()["checks"]["spill"]


async def test_an_erased_seller_leaves_the_spill(
    client: httpx.AsyncClient, gate: UploadGate, keeper: Keeper, tmp_path: Path
) -> None:
    with held(tmp_path / "ledger.sqlite"):
        answer = (await _decide(client, "mine-1")).json()
    gate.ledger.erase("seller-1", belonging, gate.clock.now())
    found = await client.get(f"/v1/decisions/{answer['trace_id']}", headers=REVIEWER)
    assert found.status_code == 404
    again = await _decide(client, "mine-1")
    assert again.status_code == 409
    assert "erased; send a new id" in again.json()["message"]
    await keeper.drain()
    assert _kinds(gate, "mine-1") == []
    assert (await _decide(client, "mine-1")).status_code == 409, "the id stays taken"
