"""How much a predictor holds at once: bodies that never end, are refused beyond the bound, and give their room back."""

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from moderation.serving_rules import PredictorRules
from serving.predictor import bodies
from serving.predictor.intake import Intake
from serving.predictor.model import TidegateModel
from serving.predictor.others import OtherRoutes
from serving.predictor.queue import BatchQueue, Overloaded
from serving.predictor.rest import RestInference
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.fakes import a_release
from tests.unit.serving.scorers import FakeScorer, PreparingThreads

MIB = 2**20
LINES = {name: {"items": 2, "mib": 1} for name in ("upload", "rescan", "backfill")}
RULES = PredictorRules.model_validate(
    {
        "max_batch": 1,
        "wait_ms": 0.0,
        "behind_ms": 100.0,
        "fair_every": 16,
        "stop_s": 5.0,
        "lines": LINES,
    }
)
"""Three lines of 1 MiB: 3 MiB in hand."""

TITLE = b'{"inputs": [{"name": "title", "datatype": "BYTES", "shape": [1], "data": ["lamp"]}]}'
INFER = "/v2/models/tidegate/infer"


class Caller:
    """One request to a predictor's application, whose body comes as a test says."""

    def __init__(self, app: RestInference, path: str = INFER, declared: int | None = None) -> None:
        self._told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[MutableMapping[str, Any]] = []
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
        self.task = asyncio.create_task(app(scope, self._told.get, self._send))

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    async def say(self, data: bytes, *, is_more: bool = True) -> None:
        self._told.put_nowait({"type": "http.request", "body": data, "more_body": is_more})
        await asyncio.sleep(0.01)

    async def leave(self) -> None:
        self._told.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, 5)

    async def status(self) -> int:
        await asyncio.wait_for(self.task, 5)
        return int(self.sent[0]["status"])

    def header(self, name: bytes) -> bytes | None:
        return dict(self.sent[0]["headers"]).get(name)


@pytest.fixture
async def app() -> AsyncIterator[RestInference]:
    scorer = FakeScorer()
    queue = BatchQueue(scorer, PreparingThreads(scorer.prepare), RULES, ThreadPlan(1, 1))
    intake = Intake(RULES)
    model = TidegateModel(queue, a_release(), intake)
    yield RestInference(model, OtherRoutes(FastAPI(), intake))
    queue.close()


def _held() -> float | None:
    return REGISTRY.get_sample_value("tidegate_predictor_held_bytes")


def _hold(intake: Intake, *sizes: int, expected: int = 0) -> None:
    """Hold one request for a moment."""
    with intake.hold() as holding:
        holding.expect(expected)
        for num_bytes in sizes:
            holding.take(num_bytes)


def test_one_request_alone_always_has_room() -> None:
    intake = Intake(RULES)
    _hold(intake, 50 * MIB, 50 * MIB, expected=100 * MIB)
    with intake.hold() as holding:
        holding.take(50 * MIB)
        holding.take(50 * MIB)
        with pytest.raises(Overloaded, match="100 MiB of requests in hand"):
            _hold(intake, 1)
        with pytest.raises(Overloaded, match="100 MiB of requests in hand"):
            _hold(intake, expected=1)
        _hold(intake, 0)
    _hold(intake, 100 * MIB)


def test_room_is_given_back_whatever_ends_a_request() -> None:
    intake = Intake(RULES)
    with intake.hold() as first:
        first.take(2 * MIB)
        with pytest.raises(Overloaded):
            _hold(intake, MIB, 1, expected=MIB)
        assert (_held(), intake.expected_bytes) == (2 * MIB, 0)
    assert _held() == 0


def test_who_only_tells_of_bytes_keeps_large_bodies_out_and_no_small_one() -> None:
    intake = Intake(RULES)
    with intake.hold() as idle:
        idle.expect(100 * MIB)
        with pytest.raises(Overloaded):
            _hold(intake, expected=MIB + 1)
        _hold(intake, MIB, expected=MIB)
        _hold(intake, 3 * MIB)
        idle.take(MIB)
        assert intake.expected_bytes == 99 * MIB
    _hold(intake, expected=MIB + 1)


async def test_unfinished_bodies_hold_what_came_and_the_next_is_refused(app: RestInference) -> None:
    slow = [Caller(app) for _ in range(2)]
    for caller in slow:
        await caller.say(b"x" * MIB)
    assert _held() == 2 * MIB
    declared = Caller(app, declared=MIB + 1)
    assert await declared.status() == 503, "it is not even read"
    assert declared.header(b"retry-after") == b"1"
    undeclared = Caller(app)
    await undeclared.say(b"x" * MIB)
    await undeclared.say(b"x")
    assert (await undeclared.status(), undeclared.header(b"retry-after")) == (503, b"1")
    other = Caller(app, "/v2/models/prefilter/infer")
    await slow[0].say(b"x" * (MIB - 10))
    await other.say(b"x" * 100)
    assert await other.status() == 503
    for caller in slow:
        await caller.leave()
    assert _held() == 0
    whole = Caller(app)
    await whole.say(TITLE + b" " * (2 * MIB), is_more=False)
    assert await whole.status() == 200
    assert _held() == 0


async def test_a_request_without_a_body_is_answered_however_much_is_in_hand(
    app: RestInference,
) -> None:
    slow = Caller(app)
    await slow.say(b"x" * 4 * MIB)
    health = Caller(app, "/openapi.json")
    await health.say(b"", is_more=False)
    assert await health.status() == 405, "FastAPI's own answer"
    await slow.leave()


@pytest.mark.parametrize("path", [INFER, "/v2/models/prefilter/infer"])
async def test_a_body_that_does_not_end_in_time_is_408(
    app: RestInference, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_S", 0.05)
    caller = Caller(app, path)
    await caller.say(b"x" * 100)
    assert await caller.status() == 408
    assert caller.header(b"connection") == b"close"
    assert b"100 bytes of the body came in 0.05 s" in caller.sent[1]["body"]
    assert _held() == 0


def test_calls_over_grpc_are_bounded_by_the_lines() -> None:
    assert Intake(RULES).max_calls == 12
