"""A full queue refuses what comes over REST before it costs anything; the bodies here cannot even be decoded."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from kserve.errors import InvalidInput
from kserve.protocol.rest.server import invalid_input_handler
from prometheus_client import REGISTRY

from moderation.clock import SystemClock
from moderation.scoring import ScoringItem
from moderation.serving_rules import PredictorRules
from serving.predictor.backlog import Priority
from serving.predictor.model import TidegateModel
from serving.predictor.queue import BatchQueue, Overloaded, Terms
from serving.predictor.rest import RestInference
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.fakes import a_release
from tests.unit.serving.scorers import FakeScorer

LINES = {name: {"items": 2, "mib": 1} for name in ("upload", "rescan", "backfill")}
RULES = {"max_batch": 1, "wait_ms": 0.0, "fair_every": 16, "stop_s": 5.0, "lines": LINES}
UNREADABLE = b'{"no JSON'


@pytest.fixture
async def queue() -> AsyncIterator[BatchQueue]:
    """A queue whose engine waits, so that what is let in stays."""
    scorer = FakeScorer()
    scorer.gate.clear()
    queue = BatchQueue(scorer, PredictorRules.model_validate(RULES), ThreadPlan(1, 1))
    busy = _ask(queue, Priority.UPLOAD)
    while not scorer.batches:
        await asyncio.sleep(0.002)
    yield queue
    scorer.gate.set()
    await busy
    queue.close()


@pytest.fixture
async def client(queue: BatchQueue) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI(exception_handlers={InvalidInput: invalid_input_handler})
    infer = RestInference(TidegateModel(queue, a_release())).infer
    app.add_api_route("/infer", infer, methods=["POST"], response_model=None)
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


def _overloaded() -> float:
    labels = {"status": "overloaded"}
    return REGISTRY.get_sample_value("tidegate_predictor_requests_total", labels) or 0.0


async def test_a_full_line_refuses_a_large_body_without_decoding_it(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    large = UNREADABLE * 2**18
    assert (await client.post("/infer", content=large)).status_code == 400, "there is room"
    await _fill(queue, Priority.UPLOAD)
    before = _overloaded()
    refused = await client.post("/infer", content=large)
    assert (refused.status_code, "has no room" in refused.text) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    assert _overloaded() == before + 1
    named = await client.post("/infer", content=b'{"priority"' + large)
    assert named.status_code == 400, "it may be of another line: it is decoded to see"


async def test_a_body_that_has_no_room_beside_those_who_wait_is_not_decoded(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    waiting = _ask(queue, Priority.UPLOAD, num_bytes=2**19)
    await asyncio.sleep(0.02)
    assert (await client.post("/infer", content=UNREADABLE)).status_code == 400
    assert (await client.post("/infer", content=UNREADABLE * 2**17)).status_code == 503
    assert not waiting.done()


async def test_a_body_is_not_even_read_when_every_line_is_full_or_the_queue_stops(
    client: httpx.AsyncClient, queue: BatchQueue
) -> None:
    read = []

    async def body() -> AsyncIterator[bytes]:
        read.append(1)
        yield UNREADABLE

    await _fill(queue, *Priority)
    assert (await client.post("/infer", content=body())).status_code == 503
    assert not read
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    stopped = await client.post("/infer", content=body())
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
    assert (await client.post("/infer", json=bad_image)).status_code == 400
    await _fill(queue, Priority.RESCAN)
    assert (await client.post("/infer", json=bad_image)).status_code == 503
    with pytest.raises(Overloaded, match="has no room"):
        await _ask(queue, Priority.RESCAN)
