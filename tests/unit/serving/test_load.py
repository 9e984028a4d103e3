"""The load sender: planned instants, what stalls and bounds do to the figures, and the limits."""

import asyncio
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from moderation.clock import SimulatedClock, SystemClock
from moderation.errors import PermanentError, TemporaryError
from serving.load.figures import LIMITS, Figures, figures_of, judge, parse_limits, percentiles
from serving.load.record import Ended, Record
from serving.load.schedule import MAX_UPLOADS, constant, poisson
from serving.load.sender import Sender, encode_upload, open_client
from tests.stub_gateway import StubGateway, served
from tests.unit.serving.fakes import NOON, FakePredictor, a_photo, an_upload

BODY = encode_upload({"listing_id": "l1", "title": "Blue bicycle"}, [])


class StillTime:
    """Time that passes only while the sender waits; each `stalls[number]` makes that wait longer."""

    def __init__(self, stalls: dict[int, float] | None = None) -> None:
        self.clock = SimulatedClock(NOON)
        self._stalls = stalls or {}
        self._number = 0

    async def sleep(self, seconds: float) -> None:
        for _ in range(100):  # everything under way ends within this instant
            await asyncio.sleep(0)
        self.clock.advance(seconds + self._stalls.get(self._number, 0.0))
        self._number += 1


def _client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


def _sender(client: httpx.AsyncClient, **changes: Any) -> Sender:
    options: dict[str, Any] = {"max_in_flight": 1000, "timeout_s": 5.0} | changes
    return Sender(client, [BODY], options.pop("clock", SystemClock()), **options)


def _milliseconds(values: Any) -> list[int]:
    return [round(float(value)) for value in values]


def test_constant_schedule_spaces_evenly() -> None:
    schedule = constant(100.0, warmup_s=1.0, duration_s=2.0)
    assert schedule.planned_s.size == 300
    assert np.allclose(np.diff(schedule.planned_s), 0.01)


def test_poisson_schedule_keeps_rate_and_seed() -> None:
    one, same, other = (
        poisson(200.0, warmup_s=0.0, duration_s=100.0, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(one.planned_s, same.planned_s)
    assert not np.array_equal(one.planned_s[:9], other.planned_s[:9])
    assert abs(one.planned_s.size - 20_000) < 5 * np.sqrt(20_000)
    gaps = np.diff(one.planned_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)
    assert one.planned_s[-1] < 100.0


@pytest.mark.parametrize("rate", [0.0, MAX_UPLOADS, float("nan"), float("inf")])
def test_schedule_refuses_none_and_too_many(rate: float) -> None:
    with pytest.raises(PermanentError, match="choose a rate and a duration"):
        constant(rate, warmup_s=0.0, duration_s=2.0)
    with pytest.raises(PermanentError, match="choose a rate and a duration"):
        poisson(rate, warmup_s=0.0, duration_s=2.0, seed=1)


async def test_uploads_go_at_their_instants_with_fresh_ids() -> None:
    time, gateway = StillTime(), StubGateway()
    async with _client(gateway) as client:
        sender = _sender(client, clock=time.clock, sleep=time.sleep)
        record = await sender.run(constant(100.0, warmup_s=0.1, duration_s=0.2))
    assert _milliseconds(record.late_ms) == [0] * 30
    assert len(set(gateway.submission_ids)) == 30
    figures = figures_of(record)
    assert (figures.due, figures.decided, figures.tiers) == (20, 20, {"allow": 20})
    assert figures.statuses == {200: 20}
    assert figures.notes() == []


async def test_stall_of_the_sender_counts_and_is_told() -> None:
    time, gateway = StillTime(stalls={10: 0.05}), StubGateway()
    async with _client(gateway) as client:
        sender = _sender(client, clock=time.clock, sleep=time.sleep)
        record = await sender.run(constant(100.0, warmup_s=0.0, duration_s=0.2))
    assert _milliseconds(record.late_ms)[9:16] == [0, 50, 40, 30, 20, 10, 0]
    assert _milliseconds(record.latency_ms) == _milliseconds(record.late_ms)
    assert any("the sender itself was late, p99 50.0 ms" in n for n in figures_of(record).notes())


async def test_stall_of_the_gateway_shows_as_no_closed_loop_does() -> None:
    gateway = StubGateway()
    gateway.stall_at = 150
    with served(gateway) as url:
        async with open_client(url, "t", max_in_flight=500) as client:
            record = await _sender(client).run(constant(200.0, warmup_s=0.0, duration_s=1.5))
        assert gateway.num_uploads == 300
        gateway.num_uploads = 0
        closed_ms = await asyncio.to_thread(_closed_loop, url, 300)
    figures = figures_of(record)
    assert figures.decided == 300
    open_p99, closed = figures.due_ms["p99"], percentiles(closed_ms)
    assert open_p99 is not None
    assert closed["p99"] is not None
    assert closed["max"] is not None
    assert closed["max"] > 295
    assert open_p99 > 200
    assert closed["p99"] < open_p99 / 2


def _closed_loop(url: str, num_uploads: int) -> Any:
    """Return latencies as a tool measures them that waits for each answer."""
    clock, found = SystemClock(), []
    with httpx.Client(base_url=url, trust_env=False) as client:
        for number in range(num_uploads):
            began = clock.monotonic()
            client.post("/v1/decisions", json={"submission_id": str(number)})
            found.append((clock.monotonic() - began) * 1e3)
    return np.array(found)


async def test_drops_at_the_bound_and_timeouts_are_counted() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async with _client(never) as client:
        sender = _sender(client, max_in_flight=3, timeout_s=0.3)
        figures = figures_of(await sender.run(constant(100.0, warmup_s=0.0, duration_s=0.1)))
    assert (figures.due, figures.sent, figures.dropped, figures.peak_in_flight) == (10, 3, 7, 3)
    assert figures.errors == {"timed out": 3}
    assert figures.shares == {"errors": 1.0, "timeouts": 1.0, "fallbacks": None, "dropped": 0.7}
    assert figures.due_ms["p50"] is None
    assert any("7 uploads were dropped by the sender" in note for note in figures.notes())


async def test_refusals_and_unreadable_answers_are_counted() -> None:
    gateway = StubGateway()
    gateway.statuses = (200, 200, 200, 503)
    async with _client(gateway) as client:
        record = await _sender(client).run(constant(200.0, warmup_s=0.0, duration_s=0.1))
        gateway.answer = {"hello": 1}
        unread = await _sender(client).run(constant(200.0, warmup_s=0.0, duration_s=0.1))
    figures = figures_of(record)
    assert figures.statuses == {200: 15, 503: 5}
    assert figures.shares["errors"] == 0.25
    assert figures.decided_ms["max"] is not None
    assert (figures.due_ms["p50"] is None, figures.due_ms["p90"] is None) == (False, True)
    assert figures_of(unread).errors == {"answer without a decision": 15}


async def test_gateway_that_dies_is_counted() -> None:
    gateway = StubGateway()
    with served(gateway) as url:
        async with open_client(url, "t", max_in_flight=5) as client:
            await _sender(client).check()
    async with open_client(url, "t", max_in_flight=5) as client:
        figures = figures_of(
            await _sender(client).run(constant(50.0, warmup_s=0.0, duration_s=0.1))
        )
        with pytest.raises(TemporaryError, match="start it with `tidegate serve`"):
            await _sender(client).check()
    assert figures.errors == {"not connected": 5}


async def test_stop_keeps_what_was_measured() -> None:
    gateway = StubGateway()
    async with _client(gateway) as client:
        sender = _sender(client)
        gateway.on_upload = lambda number: sender.stop() if number == 20 else None
        record = await sender.run(constant(100.0, warmup_s=0.1, duration_s=600.0))
    figures = figures_of(record)
    assert figures.was_stopped
    assert figures.due == figures.decided == 10
    assert 0 < figures.seconds < 5
    assert (record.outcome[21:] == Ended.NOT_DUE).all()


async def test_second_stop_gives_up_what_waits() -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    async with _client(never) as client:
        sender = _sender(client, timeout_s=60.0)
        running = asyncio.create_task(sender.run(constant(100.0, warmup_s=0.0, duration_s=60.0)))
        await asyncio.sleep(0.1)
        sender.stop()
        await asyncio.sleep(0.05)
        sender.stop()
        figures = figures_of(await asyncio.wait_for(running, 5))
    assert figures.errors == {"given up while waiting": figures.sent}
    assert figures.due_ms["p50"] is None


async def test_real_gateway_judges_every_upload_anew(
    client: httpx.AsyncClient, predictor: FakePredictor
) -> None:
    upload = an_upload()
    body = encode_upload(upload["listing"], [a_photo()])
    sender = Sender(client, [body], SystemClock(), max_in_flight=50, timeout_s=10.0)
    await sender.check()
    figures = figures_of(await sender.run(constant(20.0, warmup_s=0.2, duration_s=0.3)))
    assert (figures.decided, figures.fallbacks) == (6, 0)
    assert len(predictor.requests) == 11
    predictor.error = grpc.StatusCode.UNAVAILABLE
    figures = figures_of(await sender.run(constant(20.0, warmup_s=0.0, duration_s=0.3)))
    assert (figures.decided, figures.fallbacks) == (6, 6)


async def test_check_tells_why_uploads_are_refused(client: httpx.AsyncClient) -> None:
    sender = Sender(
        client,
        [encode_upload({"title": "x"}, [])],
        SystemClock(),
        max_in_flight=1,
        timeout_s=5.0,
    )
    with pytest.raises(PermanentError, match="answered 400 to the first upload.*listing_id"):
        await sender.check()


def test_open_client_refuses_what_is_no_address() -> None:
    with pytest.raises(PermanentError, match="give the gateway's address"):
        open_client("http://a:b", "t", max_in_flight=1)


def _figures(latencies_ms: list[float]) -> Figures:
    record = Record.of(constant(len(latencies_ms), warmup_s=0.0, duration_s=1.0))
    record.latency_ms[:] = latencies_ms
    record.late_ms[:] = 1.0
    for number in range(len(latencies_ms)):
        record.keep_decision(number, "allow", is_fallback=number == 0)
    record.seconds = 1.0
    return figures_of(record)


def test_limit_is_kept_up_to_its_value() -> None:
    figures = _figures([float(value) for value in range(1, 1001)])
    limits = parse_limits(["p99=990", "p99.9=998", "fallbacks=0.001", "errors=0", "late=1"])
    assert [(v.name, v.ok) for v in judge(figures, limits)] == [
        ("p99", True),
        ("p99.9", False),
        ("fallbacks", True),
        ("errors", True),
        ("late", True),
    ]


def test_limit_on_what_never_came_is_exceeded() -> None:
    record = Record.of(constant(10, warmup_s=0.0, duration_s=1.0))
    record.outcome[:] = Ended.TIMED_OUT
    (p99, fallbacks) = judge(figures_of(record), parse_limits(["p99=1e9", "fallbacks=1"]))
    assert (p99.ok, p99.value, fallbacks.ok) == (False, None, False)


@pytest.mark.parametrize("text", ["p98=1", "p99", "p99=", "p99=fast", "p99=-1", "p99=nan", "=1"])
def test_bad_limit_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(PermanentError) as told:
        parse_limits([text])
    assert f"--limit {text}: write name=number" in str(told.value)
    assert all(name in str(told.value) for name in LIMITS)
