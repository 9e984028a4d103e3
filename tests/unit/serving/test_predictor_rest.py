"""The REST side alone: what a full queue refuses unread, callers that leave, faults of ours, what it hands on."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY

from moderation.clock import SystemClock
from moderation.scoring import ScoringItem
from moderation.serving_rules import PredictorRules
from serving.predictor import rest
from serving.predictor.backlog import Priority
from serving.predictor.intake import Intake
from serving.predictor.model import TidegateModel
from serving.predictor.queue import BatchQueue, Overloaded, Terms
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.fakes import a_release
from tests.unit.serving.scorers import FakeScorer, PreparingThreads

LINES = {name: {"items": 2, "mib": 1} for name in ("upload", "rescan", "backfill")}
RULES = {
    "max_batch": 1,
    "wait_ms": 0.0,
    "fair_every": 16,
    "behind_ms": 100.0,
    "stop_s": 5.0,
    "lines": LINES,
}
INFER = "/v2/models/tidegate/infer"
UNREADABLE = b'{"no JSON'
TITLE = b'{"inputs": [{"name": "title", "datatype": "BYTES", "shape": [1], "data": ["lamp"]}]}'


@pytest.fixture
async def queue() -> AsyncIterator[BatchQueue]:
    """A queue whose engine waits, so that what is let in stays."""
    scorer = FakeScorer()
    scorer.gate.clear()
    queue = BatchQueue(
        scorer,
        PreparingThreads(scorer.prepare),
        PredictorRules.model_validate(RULES),
        ThreadPlan(1, 1),
    )
    busy = _ask(queue, Priority.UPLOAD)
    while not scorer.batches:
        await asyncio.sleep(0.002)
    yield queue
    scorer.gate.set()
    await busy
    queue.close()


@pytest.fixture
async def client(queue: BatchQueue) -> AsyncIterator[httpx.AsyncClient]:
    others = FastAPI()
    others.add_api_route("/others", lambda: "handed on")
    app = rest.RestInference(
        TidegateModel(queue, a_release(), Intake(PredictorRules.model_validate(RULES))), others
    )
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://predictor") as client:
        yield client


def _ask(queue: BatchQueue, priority: Priority, num_bytes: int = 0) -> asyncio.Task[object]:
    terms = Terms(priority, SystemClock().monotonic() + 30, num_bytes)
    return asyncio.create_task(queue.score([ScoringItem("waits")], terms))


async def _fill(queue: BatchQueue, *priorities: Priority) -> None:
    tasks = [_ask(queue, priority) for priority in priorities for _ in range(2)]
    await asyncio.sleep(0.02)
    assert not any(task.done() for task in tasks)


def _requests(status: str) -> float:
    labels = {"status": status}
    return REGISTRY.get_sample_value("tidegate_predictor_requests_total", labels) or 0.0


async def test_a_full_line_refuses_a_large_body_without_decoding_it(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    large, refused_before = UNREADABLE * 2**18, _requests("invalid")
    assert (await client.post(INFER, content=large)).status_code == 400, "there is room"
    assert _requests("invalid") == refused_before + 1
    await _fill(queue, Priority.UPLOAD)
    before = _requests("overloaded")
    refused = await client.post(INFER, content=large)
    assert (refused.status_code, "has no room" in refused.text) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    assert _requests("overloaded") == before + 1
    named = await client.post(INFER, content=b'{"priority"' + large)
    assert named.status_code == 400, "it may be of another line: it is decoded to see"


async def test_a_body_that_has_no_room_beside_those_who_wait_is_not_decoded(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    waiting = _ask(queue, Priority.UPLOAD, num_bytes=2**19)
    await asyncio.sleep(0.02)
    assert (await client.post(INFER, content=UNREADABLE)).status_code == 400
    assert (await client.post(INFER, content=UNREADABLE * 2**17)).status_code == 503
    assert not waiting.done()


async def test_a_body_is_not_even_read_when_every_line_is_full_or_the_queue_stops(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield UNREADABLE

    await _fill(queue, *Priority)
    assert (await client.post(INFER, content=body())).status_code == 503
    assert not read
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    stopped = await client.post(INFER, content=body())
    assert (stopped.status_code, "is stopping" in stopped.text, read) == (503, True, [])
    draining.cancel()


async def test_a_full_line_refuses_what_was_read_before_its_images_are_decoded(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    bad_image = {
        "inputs": [
            {"name": "title", "datatype": "BYTES", "shape": [1], "data": ["lamp"]},
            {"name": "images", "datatype": "BYTES", "shape": [1], "data": ["*no base64*"]},
        ],
        "parameters": {"priority": "rescan"},
    }
    assert (await client.post(INFER, json=bad_image)).status_code == 400
    await _fill(queue, Priority.RESCAN)
    assert (await client.post(INFER, json=bad_image)).status_code == 503
    with pytest.raises(Overloaded, match="has no room"):
        await _ask(queue, Priority.RESCAN)


async def test_a_caller_that_leaves_before_the_end_of_its_body_is_not_answered(
    queue: BatchQueue,
) -> None:
    sent = await _call(queue, [_body(UNREADABLE, is_more=True), {"type": "http.disconnect"}])
    assert sent == []


async def test_a_caller_that_leaves_while_it_waits_is_taken_out_of_the_queue(
    queue: BatchQueue,
) -> None:
    before = _requests("cancelled")
    sent = await _call(queue, [_body(TITLE), {"type": "http.disconnect"}])
    assert sent == []
    assert _requests("cancelled") == before + 1


async def test_the_end_of_the_server_is_no_caller_that_left(queue: BatchQueue) -> None:
    answering = asyncio.create_task(_call(queue, [_body(TITLE)]))
    await asyncio.sleep(0.05)
    answering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answering


async def test_a_body_beyond_the_bound_is_not_read_to_its_end(
    queue: BatchQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _requests("invalid")
    monkeypatch.setattr(rest, "MAX_BODY_BYTES", 4)
    told = [_body(b"123", is_more=True), _body(b"456", is_more=True), _body(b"7")]
    sent = await _call(queue, told)
    assert (sent[0]["status"], b"beyond 4 bytes" in sent[1]["body"]) == (413, True)
    assert told == [_body(b"7")], "not read"
    declared = await _call(queue, [_body(b"12345")], {b"content-length": b"5"})
    assert declared[0]["status"] == 413
    assert _requests("invalid") == before + 2


@pytest.mark.parametrize("told", ["1" * 5_000, "-1", "x", "", "\u00b2"])
async def test_a_length_that_is_none_is_refused_by_its_header(queue: BatchQueue, told: str) -> None:
    headers = {b"inference-header-content-length": told.encode("latin-1")}
    sent = await _call(queue, [_body(TITLE)], headers)
    assert sent[0]["status"] == 400
    assert b"inference-header-content-length is" in sent[1]["body"]
    assert len(sent[1]["body"]) < 200, "it is not sent back whole"


async def test_a_fault_of_ours_is_500_and_logged(
    queue: BatchQueue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "parse_body", lambda *_: 1 / 0)
    sent = await _call(queue, [_body(TITLE)])
    assert (sent[0]["status"], json.loads(sent[1]["body"])) == (
        500,
        {"error": "ZeroDivisionError: see the predictor's log"},
    )
    assert "division by zero" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 404),
        ("POST", "/v2/models/other/infer", 404),
        ("POST", INFER.replace("/infer", "/versions/1/infer"), 404),
        ("GET", "/others", 200),
    ],
)
async def test_everything_else_is_handed_on(
    client: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path, content=TITLE)
    assert answer.status_code == status
    if "versions" in path:
        assert answer.json() == {"error": "Model with name tidegate in version 1 does not exist."}


def _body(data: bytes, *, is_more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": is_more}


async def _call(
    queue: BatchQueue, told: list[dict[str, Any]], headers: dict[bytes, bytes] | None = None
) -> list[dict[str, Any]]:
    """Return what the application sent; `told` is what it hears, after which it hears nothing more."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if not told:
            await asyncio.Event().wait()
        await asyncio.sleep(0.02)  # let it get on with what it heard
        return told.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    app = rest.RestInference(
        TidegateModel(queue, a_release(), Intake(PredictorRules.model_validate(RULES))), FastAPI()
    )
    scope = {"type": "http", "method": "POST", "path": INFER, "headers": (headers or {}).items()}
    async with asyncio.timeout(10):
        await app(scope, receive, send)
    return sent
