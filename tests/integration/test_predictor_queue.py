"""The queue of a real predictor process: many callers, callers that leave, bursts, floods, and the end."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from moderation.bundle import Bundle
from moderation.scoring import Scorer, ScoringItem
from serving.client import PredictorClient, Query
from serving.errors import PredictorOverloaded
from serving.openinference import read_outputs
from serving.process import ServingProcess, start_predictor
from tests.v2_calls import (
    INFER,
    channel,
    contract_with,
    grpc_request,
    json_body,
    method,
    metric,
)

pytestmark = pytest.mark.slow

READY = "/v2/health/ready"
Asker = Callable[[], Coroutine[Any, Any, str]]
LINE = {"items": 24, "mib": 64}
LINES = dict.fromkeys(("upload", "rescan", "backfill"), LINE)
ROOMY_LINES = dict.fromkeys(LINES, LINE | {"items": 64})
RULES = {"max_batch": 8, "lines": LINES}
LISTINGS = "tidegate_predictor_batch_listings_sum"
BATCHES = "tidegate_predictor_batch_listings_count"
HELD = "tidegate_predictor_held_bytes"
CANCELLED = 'tidegate_predictor_dropped_listings_total{priority="%s",reason="cancelled"}'


def _slow_photo() -> bytes:
    """Return a small file whose decoding keeps a thread busy for tens of milliseconds."""
    stream = io.BytesIO()
    Image.new("RGB", (4_000, 4_000), "teal").save(stream, "PNG")
    return stream.getvalue()


SLOW = _slow_photo()


@pytest.fixture(scope="module")
def predictor(
    tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServingProcess]:
    with _started(tiny_bundle, tmp_path_factory.mktemp("logs")) as process:
        yield process


def _started(bundle: Bundle, folder: Path, **changes: Any) -> Any:
    contract = contract_with(folder / "release.yaml", **(RULES | changes))
    environment = {
        "TIDEGATE__RELEASE_FILE": str(contract),
        "TIDEGATE__PREDICTOR_WORKERS": "1",
        "TIDEGATE__PREDICTOR_PREPARERS": "1",
    }
    return start_predictor(
        bundle.folder,
        log_folder=folder,
        num_threads=1,
        environment=environment,
        is_unattested=True,
    )


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(holds):
            await asyncio.sleep(0.01)


def _depth(process: ServingProcess, priority: str = "upload") -> float:
    return metric(process, f'tidegate_predictor_queue_listings{{priority="{priority}"}}')


async def test_64_callers_are_batched_and_right(
    predictor: ServingProcess, tiny_bundle: Bundle
) -> None:
    titles = [f"red lamp {'very ' * (n % 7)}{n}" for n in range(64)]
    listings, batches = metric(predictor, LISTINGS), metric(predictor, BATCHES)
    async with channel(predictor) as opened:
        infer = method(opened, "ModelInfer")
        # The line of uploads holds 24: the rest comes under the other priorities.
        priorities = ["upload", "rescan", "backfill"]
        calls = [
            infer(grpc_request([title], priority=priorities[n % 3]), timeout=30)
            for n, title in enumerate(titles)
        ]
        answers = [read_outputs(answer) for answer in await asyncio.gather(*calls)]
    expected = Scorer.load(tiny_bundle.folder).score([ScoringItem(title) for title in titles])
    got_NP = np.concatenate([answer["probability"] for answer in answers])
    np.testing.assert_allclose(got_NP, expected.probability_NP, rtol=0, atol=1e-6)
    assert metric(predictor, LISTINGS) == listings + 64
    assert metric(predictor, BATCHES) < batches + 48, "callers shared batches"


async def test_killed_callers_listings_are_not_computed(predictor: ServingProcess) -> None:
    program = (
        "import sys, httpx\n"
        f"httpx.post({predictor.http_url + INFER!r}, content=sys.stdin.buffer.read(), timeout=60)\n"
    )
    before = {
        name: metric(predictor, name)
        for name in (LISTINGS, CANCELLED % "backfill", CANCELLED % "rescan")
    }
    async with channel(predictor) as opened:
        infer = method(opened, "ModelInfer")
        busy = infer(grpc_request(["busy"] * 6, [SLOW]), timeout=60)
        await _until(lambda: _depth(predictor) > 0)
        gone = infer(grpc_request(["gone"] * 5, priority="backfill"), timeout=60)
        killed = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
        assert killed.stdin is not None
        again = infer(grpc_request(["busy"] * 12, [SLOW]), timeout=60)
        body = httpx.Request("POST", "http://x", json=json_body(["killed"] * 4, None)).content
        body = body.replace(b'{"inputs"', b'{"parameters":{"priority":"rescan"},"inputs"', 1)
        await asyncio.to_thread(killed.stdin.write, body)
        killed.stdin.close()
        await _until(lambda: _depth(predictor, "rescan") == 4)
        gone.cancel()
        killed.kill()
        killed.wait()
        await _until(lambda: _depth(predictor, "rescan") + _depth(predictor, "backfill") == 0)
        await asyncio.gather(busy, again)
    more = [metric(predictor, name) - value for name, value in before.items()]
    assert more == [18, 5, 4], "only listings of the callers that stayed were computed"


async def test_burst_is_refused_early_while_others_answer(predictor: ServingProcess) -> None:
    async with httpx.AsyncClient(
        base_url=predictor.http_url, timeout=60, trust_env=False
    ) as client:
        busy = asyncio.create_task(client.post(INFER, json=json_body(["busy"] * 12, [SLOW])))
        await _until(lambda: _depth(predictor) > 8)
        burst = [client.post(INFER, json=json_body([f"burst {n}"])) for n in range(40)]
        answers = await asyncio.gather(*burst)
        asker = PredictorClient(predictor.url)
        release = await asker.release(timeout_s=5)
        again = asyncio.create_task(client.post(INFER, json=json_body(["busy"] * 24, [SLOW])))
        await _until(lambda: _depth(predictor) > 18)
        query = Query("one", "", [], np.zeros(16, np.float32), np.ones(16, np.int8))
        asked = [asker.ask(query, bundle=release.bundle, timeout_s=20) for _ in range(30)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        await asker.close()
        assert (await busy).status_code == 200
        assert (await again).status_code in (200, 503)
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert len(refused) >= 10
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    told = [outcome for outcome in outcomes if isinstance(outcome, PredictorOverloaded)]
    assert len(told) >= 6
    assert all(error.delay_s > 0 for error in told)


async def test_upload_overtakes_a_flood_of_backfill(predictor: ServingProcess) -> None:
    order: list[str] = []
    async with channel(predictor) as opened:
        infer = method(opened, "ModelInfer")

        async def ask(name: str, priority: str) -> None:
            await infer(grpc_request([name], [SLOW], priority=priority), timeout=60)
            order.append(priority)

        flood = [asyncio.create_task(ask(f"old {n}", "backfill")) for n in range(24)]
        await _until(lambda: _depth(predictor, "backfill") > 16)
        await ask("new", "upload")
        await asyncio.gather(*flood)
    assert order.index("upload") <= 16, order


async def test_deadline_is_kept_while_the_engine_is_busy(predictor: ServingProcess) -> None:
    listings = metric(predictor, LISTINGS)
    async with channel(predictor) as opened:
        infer = method(opened, "ModelInfer")
        busy = infer(grpc_request(["busy"] * 16, [SLOW]), timeout=60)
        await _until(lambda: _depth(predictor) > 4)
        with pytest.raises(grpc.RpcError) as caught:
            await infer(grpc_request(["hurried"], [SLOW], deadline_ms=60), timeout=60)
        await busy
    assert caught.value.code().name in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert metric(predictor, LISTINGS) == listings + 16, "it was not computed"


async def test_signal_under_load_answers_all_that_was_let_in(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with _started(tiny_bundle, tmp_path, lines=ROOMY_LINES) as process:
        async with _opened(process) as (infer, client):
            signalled = asyncio.Event()
            told: list[list[str]] = [[] for _ in range(6)]
            askers = [_grpc_asker(infer), _rest_asker(client)] * 3
            callers = [
                asyncio.create_task(_keep_asking(ask, heard, signalled))
                for ask, heard in zip(askers, told, strict=True)
            ]
            await _until(lambda: all(told))
            busy = [infer(grpc_request([f"{n}"] * 12, [SLOW]), timeout=60) for n in range(2)]
            posts = [
                asyncio.create_task(client.post(INFER, json=json_body(["post"] * 2, [SLOW])))
                for _ in range(2)
            ]
            await _until(lambda: _depth(process) > 20)
            os.kill(process.pid, signal.SIGTERM)
            signalled.set()
            await _until(
                lambda: httpx.get(process.http_url + READY, trust_env=False).status_code == 503
            )
            late = await client.post(INFER, json=json_body(["late"]))
            assert (late.status_code, "is stopping" in late.text) == (503, True)
            assert int(late.headers["retry-after"]) >= 1
            assert await _grpc_asker(infer)() == "refused"
            answers = [read_outputs(answer) for answer in await asyncio.gather(*busy)]
            assert [len(answer["probability"]) for answer in answers] == [12, 12]
            assert [(await post).status_code for post in posts] == [200, 200]
            await asyncio.gather(*callers)
        assert [heard[0] for heard in told] == ["answered"] * 6
        assert await asyncio.to_thread(_exit_status, process.pid) == 0


async def test_signal_refuses_what_cannot_be_answered_in_time(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with _started(tiny_bundle, tmp_path, lines=ROOMY_LINES, stop_s=0.2) as process:
        async with _opened(process) as (infer, client):
            calls: list[asyncio.Task[str]] = [
                asyncio.create_task(ask())
                for ask in [_grpc_asker(infer, SLOW), _rest_asker(client, SLOW)] * 20
            ]
            await _until(lambda: _depth(process) > 30)
            os.kill(process.pid, signal.SIGTERM)
            told = await asyncio.gather(*calls)
        assert told.count("refused") >= 5
        assert await asyncio.to_thread(_exit_status, process.pid) == 0
        assert "stopping" in process.log.read_text()


async def test_unfinished_bodies_leave_others_no_room_until_they_are_gone(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    small = dict.fromkeys(LINES, LINE | {"mib": 1})
    with _started(tiny_bundle, tmp_path, lines=small) as process:
        async with _opened(process) as (infer, client):
            port = int(process.http_url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {4 * 2**20}\r\n\r\n"
            writer.write(head.encode() + b"x" * 3 * 2**20)
            await writer.drain()
            await _until(lambda: metric(process, HELD) >= 3 * 2**20)
            assert await _grpc_asker(infer)() == await _rest_asker(client)() == "refused"
            with pytest.raises(grpc.RpcError) as caught:
                await infer(grpc_request(["one"]), timeout=60)
            assert "retry-after-ms" in dict(caught.value.trailing_metadata())
            assert (await client.get(READY)).status_code == 200
            writer.close()
            await _until(lambda: metric(process, HELD) == 0)
            assert await _grpc_asker(infer)() == await _rest_asker(client)() == "answered"


@pytest.mark.parametrize("taken", ["--http_port", "--grpc_port"])
async def test_predictor_ends_when_a_port_is_taken(
    taken: str, predictor: ServingProcess, tiny_bundle: Bundle
) -> None:
    port = (predictor.http_url if taken == "--http_port" else predictor.url).rpartition(":")[2]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        ports = {"--http_port": str(free.getsockname()[1]), "--grpc_port": "0"} | {taken: port}
    flags = [part for pair in ports.items() for part in pair]
    command = [
        "-m",
        "serving.predictor",
        "--unattested",
        "--bundle",
        str(tiny_bundle.folder),
        *flags,
    ]
    child = await asyncio.create_subprocess_exec(sys.executable, *command)
    assert await asyncio.wait_for(child.wait(), 60) not in (0, None)
    assert _depth(predictor) == 0, "the first one still answers"


@contextlib.asynccontextmanager
async def _opened(process: ServingProcess) -> AsyncIterator[tuple[Any, httpx.AsyncClient]]:
    async with (
        channel(process) as opened,
        httpx.AsyncClient(base_url=process.http_url, timeout=60, trust_env=False) as client,
    ):
        yield method(opened, "ModelInfer"), client


def _grpc_asker(infer: Any, *images: bytes) -> Asker:
    async def ask() -> str:
        try:
            await infer(grpc_request(["one"], list(images)), timeout=60)
        except grpc.RpcError as error:
            return {"RESOURCE_EXHAUSTED": "refused"}[error.code().name]
        return "answered"

    return ask


def _rest_asker(client: httpx.AsyncClient, *images: bytes) -> Asker:
    async def ask() -> str:
        answer = await client.post(INFER, json=json_body(["one"], list(images)))
        return {200: "answered", 503: "refused"}[answer.status_code]

    return ask


async def _keep_asking(ask: Asker, told: list[str], ended: asyncio.Event) -> None:
    while not ended.is_set():
        told.append(await ask())


def _exit_status(pid: int) -> int:
    """Return what a process ended with, and leave it to be collected by who started it."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_code == os.CLD_EXITED, "a signal ended it"
    return ended.si_status
