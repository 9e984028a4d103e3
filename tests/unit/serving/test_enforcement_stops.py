"""Automatic enforcement over the real gate: what stops it, who follows, and what lets it go on."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledger.enforcement import newest_change
from ledger.events import EventKind, to_enforcement
from ledger.ledger import Ledger, LedgerUnavailable, SqliteLedger
from moderation.clock import SimulatedClock
from moderation.decision import Attempt, Decision, PolicyScore, replay
from moderation.enforcement import EnforcementChange
from serving.errors import NothingToChange
from serving.gateway.app import create_app
from serving.gateway.auth import Callers
from serving.gateway.enforcement import Enforcement, Others
from serving.gateway.gate import UploadGate
from tests.decided import a_decision
from tests.unit.serving.fakes import NOON, TOKENS, FakePredictor, an_upload
from tests.unit.serving.guarded import (
    breaker_rules,
    guard,
    heartbeat_rules,
    quota_rules,
    serving_rules,
)

REVIEWER = {"Authorization": "Bearer r3view"}
ADMIN = {"Authorization": "Bearer adm1n"}
BAD = [0.95, 0.0, 0.0]
GOOD = [0.0, 0.0, 0.0]


async def _decide(client: httpx.AsyncClient, gate: UploadGate) -> Decision:
    answer = (await client.post("/v1/decisions", json=an_upload())).json()
    if gate.is_stop_due.is_set():  # what the running app does at once
        gate.safeguards.step(gate.ledger)
    decision = gate.ledger.get_decision(answer["trace_id"])
    assert decision is not None
    assert decision.tier == answer["tier"]
    return decision


async def _decide_many(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, *kinds: list[float]
) -> list[str]:
    tiers: list[str] = []
    for probability_P in kinds:
        predictor.probability_P = probability_P
        tiers.append((await _decide(client, gate)).tier)
    return tiers


def _changes(gate: UploadGate) -> list[EnforcementChange]:
    return [to_enforcement(s.event) for s in gate.ledger.read([EventKind.ENFORCEMENT])]


def _watch(gate: UploadGate) -> Enforcement:
    assert gate.safeguards.enforcement is not None
    return gate.safeguards.enforcement


async def test_enforcement_stops_when_a_release_flags_too_much(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    tiers = await _decide_many(client, gate, predictor, *[GOOD, BAD] * 4, GOOD, BAD, BAD, BAD)
    assert tiers == ["allow", "block"] * 5 + ["review", "review"]
    stops = _changes(gate)
    assert [(one.state, one.cause, one.by) for one in stops] == [("stopped", "predictions", "g1")]
    decision = await _decide(client, gate)
    assert (decision.tier, decision.attempts[0].tier) == ("review", "block")
    assert decision.stopped_because == stops[0].reason
    assert replay(decision, gate.policies) == (decision.tier, decision.reason_codes)
    tasks = [s.event.payload for s in gate.ledger.read([EventKind.REVIEW_TASK])]
    assert len(tasks) == 3, "nothing that was held is without a reviewer"
    metrics = (await client.get("/metrics")).text
    assert "tidegate_enforcement_stopped 1.0" in metrics


async def test_enforcement_goes_on_when_a_release_flags_little(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    tiers = await _decide_many(client, gate, predictor, *[GOOD, GOOD, BAD] * 5)
    assert tiers.count("block") == 5
    assert _changes(gate) == []


async def test_enforcement_stops_when_many_times_the_expected_is_flagged(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    predictor.release = predictor.release.model_copy(update={"shares": {"weapons": 0.03}})
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    tiers = await _decide_many(client, gate, predictor, *[GOOD] * 9, *[BAD] * 4)
    assert tiers[-4:] == ["block", "block", "block", "review"]
    assert "3.00% were expected" in _changes(gate)[0].reason


async def test_enforcement_stops_when_the_quota_is_used_up(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules())
    tiers = await _decide_many(client, gate, predictor, *[BAD] * 5)
    assert tiers == ["block"] * 4 + ["review"]
    assert [(one.cause, one.policy) for one in _changes(gate)] == [("quota", "weapons")]


async def test_quota_counts_what_other_gateways_enforced(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    parts: dict[str, Any] = {"enforcement_quotas": quota_rules(), "heartbeat": heartbeat_rules()}
    guard(gate, tmp_path, **parts)
    assert await _decide_many(client, gate, predictor, *[BAD] * 3) == ["block"] * 3
    gate.safeguards.beat()
    guard(gate, tmp_path, gateway="g2", **parts)
    assert await _decide_many(client, gate, predictor, BAD, BAD) == ["block", "review"]


async def test_stop_outlives_a_restart_and_reaches_other_gateways(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, gateway="g1", enforcement_quotas=quota_rules())
    first = _watch(gate)
    guard(gate, tmp_path, gateway="g2", enforcement_quotas=quota_rules())
    assert await _decide_many(client, gate, predictor, *[BAD] * 4) == ["block"] * 4
    before = first.state
    first.sync()
    assert (before.is_stopped, first.state.is_stopped) == (False, True)
    guard(gate, tmp_path, gateway="g3", enforcement_quotas=quota_rules())
    assert await _decide_many(client, gate, predictor, BAD) == ["review"]
    assert len(_changes(gate)) == 1


async def test_stop_is_recorded_once_when_two_gateways_find_it(
    gate: UploadGate, tmp_path: Path
) -> None:
    guard(gate, tmp_path, gateway="g1", enforcement_quotas=quota_rules())
    first = _watch(gate)
    guard(gate, tmp_path, gateway="g2", enforcement_quotas=quota_rules())
    first.change(stop=True, reason="stopped by hand", by="ana")
    with pytest.raises(NothingToChange, match="stopped already"):
        _watch(gate).change(stop=True, reason="stopped by hand", by="eva")
    assert [one.by for one in _changes(gate)] == ["ana"]


async def test_change_is_asked_anew_when_another_took_its_number(
    gate: UploadGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard(gate, tmp_path, gateway="g1", enforcement_quotas=quota_rules())
    _watch(gate).change(stop=True, reason="stopped by hand", by="ana")
    guard(gate, tmp_path, gateway="g2", enforcement_quotas=quota_rules())
    late, real, looks = _watch(gate), newest_change, iter([True])
    late._newest = None

    def behind(ledger: Ledger, after: EnforcementChange | None) -> EnforcementChange | None:
        return None if next(looks, False) else real(ledger, after)

    monkeypatch.setattr("serving.gateway.enforcement.newest_change", behind)
    with pytest.raises(NothingToChange, match="stopped already"):
        late.change(stop=True, reason="stopped by hand", by="eva")
    assert [one.by for one in _changes(gate)] == ["ana"]


async def test_admin_lets_it_go_on_and_the_gateway_counts_anew(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    await _decide_many(client, gate, predictor, *[BAD] * 10)
    shown = (await client.get("/v1/enforcement", headers=REVIEWER)).json()
    assert (shown["state"], shown["cause"], shown["number"]) == ("stopped", "predictions", 1)
    body = {"state": "automatic", "reason": "rolled back the release"}
    done = await client.post("/v1/enforcement", json=body, headers=ADMIN)
    assert (done.status_code, done.json()["by"]) == (200, "root")
    assert await _decide_many(client, gate, predictor, *[BAD] * 9) == ["block"] * 9
    last = _changes(gate)[-1]
    assert (last.state, last.cause, last.reason) == ("automatic", "admin", body["reason"])
    assert (await client.post("/v1/enforcement", json=body, headers=ADMIN)).status_code == 409


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"state": "stopped", "reason": "wave of false blocks"}, REVIEWER, 403),
        ({"state": "stopped", "reason": "wave of false blocks"}, {"Authorization": ""}, 401),
        ({"state": "stopped", "reason": "short"}, ADMIN, 400),
        ({"state": "paused", "reason": "wave of false blocks"}, ADMIN, 400),
        ({"state": "stopped"}, ADMIN, 400),
    ],
)
async def test_change_is_refused_when_it_is_not_an_admins(
    client: httpx.AsyncClient,
    gate: UploadGate,
    tmp_path: Path,
    body: dict[str, str],
    headers: dict[str, str],
    status: int,
) -> None:
    guard(gate, tmp_path, prediction_breaker=breaker_rules())
    assert (await client.post("/v1/enforcement", json=body, headers=headers)).status_code == status
    assert _changes(gate) == []


async def test_nothing_watches_when_the_contract_says_off(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path)
    tiers = await _decide_many(client, gate, predictor, *[BAD] * 12)
    assert tiers == ["block"] * 12
    assert (await client.get("/v1/enforcement", headers=ADMIN)).status_code == 404
    assert _changes(gate) == []
    assert not (tmp_path / "gateways").exists()
    assert not (tmp_path / "audit.salt").exists()


async def test_stop_holds_when_the_ledger_cannot_record_it(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules())

    def fails(*_: object) -> None:
        raise LedgerUnavailable("disk full")

    with monkeypatch.context() as patched:
        patched.setattr("serving.gateway.enforcement.record_change", fails)
        tiers = await _decide_many(client, gate, predictor, *[BAD] * 5)
        assert tiers == ["block"] * 4 + ["review"]
        assert _changes(gate) == []
    gate.safeguards.step(gate.ledger)
    assert [one.cause for one in _changes(gate)] == ["quota"]


async def test_nothing_is_enforced_while_the_state_is_unknown(
    client: httpx.AsyncClient,
    gate: UploadGate,
    predictor: FakePredictor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise LedgerUnavailable("locked")

    with monkeypatch.context() as patched:
        patched.setattr("serving.gateway.enforcement.newest_change", fails)
        guard(gate, tmp_path, prediction_breaker=breaker_rules())
        assert await _decide_many(client, gate, predictor, BAD) == ["review"]
    gate.safeguards.step(gate.ledger)
    assert await _decide_many(client, gate, predictor, BAD) == ["block"]


def _quiet_watch(tmp_path: Path, **changes: Any) -> tuple[Enforcement, SimulatedClock]:
    clock = SimulatedClock(NOON)
    rules = serving_rules(prediction_breaker=breaker_rules(**changes))
    ledger = SqliteLedger(tmp_path / "quiet.sqlite")
    found = Enforcement(rules, ledger, clock, gateway="g1")
    found.sync()
    return found, clock


def _judged(tier: str) -> Decision:
    probability = 0.95 if tier == "block" else 0.0
    scores = (PolicyScore(policy="weapons", probability=probability, worst_image=None, signals=()),)
    attempt = Attempt(
        role="answer",
        release="a" * 64,
        status="ok",
        latency_ms=1.0,
        scores=scores,
        thresholds={"weapons": {"block": 0.9}},
        tier=tier,
    )
    return a_decision("s1", NOON, attempts=(attempt,), tier=tier)


@pytest.mark.parametrize(("auto_close_s", "state"), [(120.0, "automatic"), (None, "stopped")])
def test_stop_ends_by_itself_when_the_contract_says_so(
    tmp_path: Path, auto_close_s: float | None, state: str
) -> None:
    watch, clock = _quiet_watch(tmp_path, auto_close_s=auto_close_s)
    for _ in range(10):
        watch.observe(_judged("block"), {})
    watch.sync()
    assert watch.state.is_stopped
    clock.advance(150.0)
    watch.sync()
    assert watch.state.is_stopped, "no traffic is no quiet traffic"
    for _ in range(5):
        for _ in range(10):
            watch.observe(_judged("allow"), {})
        watch.sync()
        clock.advance(30.0)
    watch.sync()
    assert watch.state.change is not None
    assert watch.state.change.state == state


def test_stop_stays_while_another_gateway_sees_too_much(tmp_path: Path) -> None:
    watch, clock = _quiet_watch(tmp_path, auto_close_s=20.0)
    for _ in range(10):
        watch.observe(_judged("block"), {})
    watch.sync()
    clock.advance(61.0)
    states = []
    for is_loud in (True, False):
        watch._others = lambda is_loud=is_loud: Others(is_loud=is_loud)  # type: ignore[misc]
        for _ in range(3):
            for _ in range(10):
                watch.observe(_judged("allow"), {})
            watch.sync()
            clock.advance(15.0)
        states.append(watch.state.is_stopped)
    assert states == [True, False]


def test_stop_stays_when_it_is_still_too_much(tmp_path: Path) -> None:
    watch, clock = _quiet_watch(tmp_path, auto_close_s=120.0)
    for _ in range(5):
        for _ in range(10):
            watch.observe(_judged("block"), {})
        watch.sync()
        clock.advance(50.0)
    watch.sync()
    assert watch.state.is_stopped


async def test_a_stop_reaches_the_ledger_of_a_running_app_at_once(
    gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules())
    app = create_app(gate, Callers(TOKENS))
    transport = httpx.ASGITransport(app)
    headers = {"Authorization": "Bearer adm1n"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://gate", headers=headers) as client,
    ):
        predictor.probability_P = BAD
        for _ in range(5):
            await client.post("/v1/decisions", json=an_upload())
        async with asyncio.timeout(20):
            while not _changes(gate):
                await asyncio.sleep(0.01)
    assert [one.cause for one in _changes(gate)] == ["quota"]


async def test_a_stop_is_recorded_when_the_gateway_ends_right_after_it(
    client: httpx.AsyncClient, gate: UploadGate, predictor: FakePredictor, tmp_path: Path
) -> None:
    guard(gate, tmp_path, enforcement_quotas=quota_rules())
    predictor.probability_P = BAD
    for _ in range(5):
        await client.post("/v1/decisions", json=an_upload())
    assert _changes(gate) == []
    await gate.close()
    assert [one.cause for one in _changes(gate)] == ["quota"]
