"""Real processes killed, frozen and starved under load: every accepted upload has exactly one decision."""

import contextlib
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from moderation.bundle import Bundle
from moderation.decision import Decision
from serving.process import ServingProcess
from tests.conftest import OwnRedis
from tests.gate_under_load import (
    TOKEN,
    Gate,
    Run,
    address_of,
    freeze,
    kill,
    resend,
    slow_loris,
    thaw,
    under_load,
)

pytestmark = pytest.mark.slow

_RATE = 20.0
_BUSY = 503


@pytest.fixture
def gate(tiny_bundle: Bundle, tmp_path: Path) -> Gate:
    return Gate(tmp_path, tiny_bundle)


def _check_books(gate: Gate, run: Run) -> dict[str, Decision]:
    """Check that each accepted upload has one decision, and nothing two; return them by submission."""
    decisions = gate.decisions()
    assert all(len(found) == 1 for found in decisions.values())
    missing = [one for one in run.accepted if one not in decisions]
    assert not missing
    return {one: found[0] for one, found in decisions.items()}


def _without_model(decision: Decision) -> bool:
    return any(part.startswith("model:") for part in decision.degraded)


def _without_features(decision: Decision) -> bool:
    return any("could not be read" in part for part in decision.degraded)


def _last_of(run: Run, decisions: dict[str, Decision], share: float) -> list[Decision]:
    """Return the decisions about the last part of a load."""
    asked = run.ids[-int(len(run.ids) * share) :]
    return [decisions[one] for one in asked if one in decisions]


def test_a_dead_predictor_is_answered_for_and_replaced(gate: Gate) -> None:
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(gate.predictor())
        gateway = stack.enter_context(gate.gateway())
        run = under_load(
            gateway.http_url,
            rate=_RATE,
            seconds=30,
            events=[
                (3, lambda: kill(first)),
                (6, lambda: stack.enter_context(gate.predictor())),
            ],
        )
        decisions = _check_books(gate, run)
    assert set(run.outcomes) == {200}
    lost = [one for one in decisions.values() if _without_model(one)]
    assert lost
    assert all(one.reason_codes == ("MODEL_UNAVAILABLE",) for one in lost)
    assert not any(map(_without_model, _last_of(run, decisions, 0.1)))


def test_a_frozen_predictor_costs_a_bounded_wait(gate: Gate) -> None:
    with gate.predictor() as predictor, gate.gateway() as gateway:
        run = under_load(
            gateway.http_url,
            rate=_RATE,
            seconds=24,
            events=[(3, lambda: freeze(predictor)), (12, lambda: thaw(predictor))],
        )
        decisions = _check_books(gate, run)
    assert set(run.outcomes) == {200}
    assert any(map(_without_model, decisions.values()))
    assert not any(map(_without_model, _last_of(run, decisions, 0.1)))
    assert run.slowest_ms() < 10_000


def test_frozen_and_dead_features_are_done_without(gate: Gate, own_redis: OwnRedis) -> None:
    url, redis = own_redis
    with contextlib.ExitStack() as stack:
        gate.environment["TIDEGATE__FEATURE_ONLINE_URL"] = url
        stack.enter_context(gate.predictor())
        stack.enter_context(gate.features())
        gateway = stack.enter_context(gate.gateway())
        run = under_load(
            gateway.http_url,
            rate=_RATE,
            seconds=20,
            events=[
                (4, lambda: redis.send_signal(signal.SIGSTOP)),
                (8, lambda: redis.send_signal(signal.SIGCONT)),
                (16, redis.kill),
            ],
        )
        decisions = _check_books(gate, run)
    assert set(run.outcomes) == {200}
    assert not any(map(_without_model, decisions.values()))
    lacking = [bool(_without_features(decisions[one])) for one in run.ids]
    at = int(_RATE)
    assert not any(lacking[2 * at : 4 * at - 5])
    assert any(lacking[4 * at : 8 * at])
    assert not any(lacking[13 * at : 16 * at - 5])
    assert all(lacking[18 * at :])


@contextlib.contextmanager
def _no_more_room(process: ServingProcess) -> Iterator[None]:
    """Let no file of a process grow past a quarter of a MiB: writes fail as on a full disk.

    The ledger's own log is longer after a few uploads; what is spilled within seconds is not.
    """
    soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**18, hard))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_ledger_loses_nothing_and_fills_up_later(gate: Gate) -> None:
    with gate.predictor(), gate.gateway() as gateway, contextlib.ExitStack() as full:
        run = under_load(
            gateway.http_url,
            rate=_RATE * 0.4,
            seconds=18,
            events=[
                (6, lambda: full.enter_context(_no_more_room(gateway))),
                (9, full.close),
            ],
        )
        _wait_until_drained(gateway)
        decisions = _check_books(gate, run)
        refused = [one for one in run.ids if one not in set(run.accepted)]
        assert set(resend(gate, gateway, refused)) <= {200}
        _wait_until_drained(gateway)
        complete = _check_books(gate, run)
    assert set(run.outcomes) <= {200, _BUSY}
    spilled = [one for one in decisions.values() if _is_spilled(one)]
    assert spilled
    assert not any(map(_is_spilled, _last_of(run, decisions, 0.1)))
    assert set(run.ids) <= set(complete)
    assert gate.submissions() <= set(complete)


@contextlib.contextmanager
def _locked(ledger: Path) -> Iterator[None]:
    """Hold the ledger's only place for a writer, as a backup or a stuck process does."""
    holder = sqlite3.connect(ledger, isolation_level=None, check_same_thread=False)
    try:
        holder.execute("BEGIN IMMEDIATE")
        yield
    finally:
        holder.close()


def test_a_ledger_that_hangs_for_long_costs_a_bounded_wait(gate: Gate) -> None:
    ledger = gate.home / "ledger.sqlite"
    with gate.predictor(), gate.gateway() as gateway, contextlib.ExitStack() as locked:
        run = under_load(
            gateway.http_url,
            rate=_RATE * 0.4,
            seconds=20,
            events=[
                (3, lambda: locked.enter_context(_locked(ledger))),
                (14, locked.close),
            ],
        )
        _wait_until_drained(gateway)
        decisions = _check_books(gate, run)
    assert set(run.outcomes) == {200}
    assert set(run.ids) == set(decisions) == gate.submissions()
    spilled = [_is_spilled(decisions[one]) for one in run.ids]
    at = int(_RATE * 0.4)
    assert not any(spilled[: 3 * at - 5])
    assert all(spilled[5 * at : 14 * at - 5])
    assert not any(spilled[-2 * at :])
    assert run.slowest_ms() < 5_000


def _is_spilled(decision: Decision) -> bool:
    return any(part.startswith("ledger:") for part in decision.degraded)


def _wait_until_drained(gateway: ServingProcess) -> None:
    """Wait until the gateway says that the ledger has everything."""
    import time

    with httpx.Client(trust_env=False) as client:
        for _ in range(100):
            checks = client.get(f"{gateway.http_url}/readyz").json()["checks"]
            if checks["ledger"] == checks["spill"] == "ok":
                return
            time.sleep(0.2)
    pytest.fail(f"the ledger did not recover: {checks}")


def test_a_burst_is_shed_and_what_is_accepted_is_kept(gate: Gate) -> None:
    with gate.predictor(), gate.gateway() as gateway:
        burst = under_load(gateway.http_url, rate=10 * _RATE * 3, seconds=5)
        after = under_load(gateway.http_url, rate=_RATE / 2, seconds=5)
        decisions = _check_books(gate, burst)
        _check_books(gate, after)
    assert burst.accepted
    assert burst.outcomes[_BUSY] or len(burst.accepted) == len(burst.ids), "refused, not lost"
    assert set(burst.outcomes) <= {200, 429, _BUSY, -2, -3}
    assert set(after.outcomes) == {200}
    assert not any(map(_without_model, _last_of(after, decisions, 0.3)))


def test_slow_and_broken_requests_do_not_hold_up_others(gate: Gate) -> None:
    broken = [
        b"",
        b"{",
        b"[]",
        b'{"listing": 1}',
        b'{"listing": {"title": "\\ud800"}}',
        b'{"listing": {}, "images": ["!"]}',
        b"\x00" * 1000,
        b'{"a":' * 5000,
    ]
    with gate.predictor(), gate.gateway() as gateway:
        before = len(gate.submissions())

        def send_broken() -> None:
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            with httpx.Client(base_url=gateway.http_url, trust_env=False) as client:
                for body in broken * 10:
                    answer = client.post("/v1/decisions", content=body, headers=headers)
                    assert answer.status_code == 400, answer.text
                    assert answer.json()["message"]

        run = under_load(
            gateway.http_url,
            rate=_RATE / 2,
            seconds=8,
            events=[(2, send_broken)],
            beside=lambda: slow_loris(address_of(gateway), 200),
        )
        _check_books(gate, run)
        assert len(gate.submissions()) == before + len(run.ids)
    assert set(run.outcomes) == {200}


def test_a_killed_gateway_decides_once_what_is_sent_again(gate: Gate) -> None:
    with gate.predictor():
        with gate.gateway() as first:
            run = under_load(
                first.http_url, rate=_RATE, seconds=8, events=[(4, lambda: kill(first))]
            )
        unanswered = [one for one in run.ids if one not in set(run.accepted)]
        assert unanswered
        assert run.accepted
        _check_books(gate, run)
        with gate.gateway() as second:
            assert set(resend(gate, second, unanswered)) == {200}
            assert set(resend(gate, second, run.accepted[-20:])) == {200}
            decisions = _check_books(gate, run)
    assert set(run.ids) == set(decisions)
