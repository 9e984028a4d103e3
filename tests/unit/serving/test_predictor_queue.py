"""The queue on real threads, with a scorer that waits and fails as told."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from moderation.clock import SystemClock
from moderation.errors import InvalidListing
from moderation.scoring import Scores, ScoringItem
from moderation.serving_rules import PredictorRules
from serving.predictor.backlog import Priority
from serving.predictor.queue import BatchQueue, Overloaded, Terms, TooLate
from serving.predictor.threads import ThreadPlan
from serving.predictor.warming import batch_sizes, warm_up
from tests.unit.serving.scorers import FakeScorer, PreparingThreads

LINES = {name: {"items": 8, "mib": 1} for name in ("upload", "rescan", "backfill")}


@pytest.fixture
def scorer() -> FakeScorer:
    return FakeScorer()


@pytest.fixture
async def queue(scorer: FakeScorer) -> AsyncIterator[BatchQueue]:
    queue = _queue(scorer)
    yield queue
    scorer.gate.set()
    scorer.prepare_gate.set()
    queue.close()


def _queue(scorer: FakeScorer, workers: int = 1, **changes: Any) -> BatchQueue:
    fields = {
        "max_batch": 4,
        "wait_ms": 5.0,
        "fair_every": 16,
        "behind_ms": 100.0,
        "stop_s": 5.0,
        "lines": LINES,
    } | changes
    return BatchQueue(
        scorer,
        PreparingThreads(scorer.prepare),
        PredictorRules.model_validate(fields),
        ThreadPlan(workers, 1),
    )


def _ask(queue: BatchQueue, *titles: str, **terms: Any) -> asyncio.Task[Scores]:
    items = [ScoringItem(title) for title in titles]
    return asyncio.create_task(queue.score(items, Terms(**terms)))


async def _until(holds: Any) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.002)


async def _occupied(queue: BatchQueue, scorer: FakeScorer) -> asyncio.Task[Scores]:
    """Return a request that is in the engine and stays there until the gate opens."""
    scorer.gate.clear()
    task = _ask(queue, "busy")
    await _until(lambda: scorer.batches)
    return task


def _in(seconds: float) -> float:
    return SystemClock().monotonic() + seconds


def _dropped(reason: str, priority: str = "upload") -> float:
    labels = {"priority": priority, "reason": reason}
    return REGISTRY.get_sample_value("tidegate_predictor_dropped_listings_total", labels) or 0.0


async def test_requests_share_a_batch_when_the_engine_is_busy(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    busy = await _occupied(queue, scorer)
    tasks = [_ask(queue, "x" * n) for n in range(1, 4)]
    await _until(lambda: len(scorer.prepared) == 4)
    scorer.gate.set()
    answers = [await task for task in tasks]
    assert scorer.batches == [["busy"], ["x", "xx", "xxx"]]
    assert [a.probability_NP[0, 0] for a in answers] == pytest.approx([0.01, 0.02, 0.03])
    await busy


async def test_idle_engine_takes_what_is_there_at_once(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    queue.latency.fixed_s = 60.0
    async with asyncio.timeout(20):
        for _ in range(3):
            await _ask(queue, "alone")
    assert scorer.batches == [["alone"]] * 3


async def test_busy_engine_waits_for_as_many_as_before(scorer: FakeScorer) -> None:
    queue = _queue(scorer, wait_ms=1_000.0)
    busy = await _occupied(queue, scorer)
    first = [_ask(queue, title) for title in ("a", "b")]
    await _until(lambda: len(scorer.prepared) == 3)
    queue.latency.fixed_s = 10.0
    scorer.gate.set()
    await asyncio.gather(busy, *first)
    queue.latency.fixed_s = 10.0
    again = _ask(queue, "c")
    await asyncio.sleep(0.05)
    assert scorer.batches[-1] == ["a", "b"], "one of two waits for the other"
    await asyncio.gather(again, _ask(queue, "d"))
    assert scorer.batches[-1] == ["c", "d"]
    queue.close()


async def test_many_listings_are_split_over_batches(queue: BatchQueue, scorer: FakeScorer) -> None:
    titles = ["x" * n for n in range(1, 11)]
    scores = await _ask(queue, *titles)
    assert scores.probability_NP[:, 0] == pytest.approx(np.arange(1, 11) / 100)
    assert max(map(len, scorer.batches)) <= 4
    assert scorer.scored == titles


async def test_uploads_overtake_when_a_backfill_floods(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    queue.latency.fixed_s, queue.latency.pass_s = 0.01, 0.0001  # sharing a batch pays
    busy = await _occupied(queue, scorer)
    flood = [_ask(queue, f"old {n}", priority=Priority.BACKFILL) for n in range(8)]
    await _until(lambda: len(scorer.prepared) == 9)
    rescan = _ask(queue, "again", priority=Priority.RESCAN)
    upload = _ask(queue, "new")
    await _until(lambda: len(scorer.prepared) == 11)
    scorer.gate.set()
    await asyncio.gather(busy, upload, rescan, *flood)
    assert scorer.batches[1] == ["new", "again", "old 0", "old 1"]


@pytest.mark.parametrize(
    ("num", "num_bytes"), [(9, 0), (1, 2**20)], ids=["too many listings", "too many bytes"]
)
async def test_request_is_refused_at_once_when_full(
    num: int, num_bytes: int, queue: BatchQueue, scorer: FakeScorer
) -> None:
    busy = await _occupied(queue, scorer)
    waiting = _ask(queue, "waits", num_bytes=1)
    await asyncio.sleep(0)
    refused = _dropped("refused")
    with pytest.raises(Overloaded, match="no room") as caught:
        await _ask(queue, *(["one more"] * num), num_bytes=num_bytes)
    assert caught.value.delay_s > 0
    assert _dropped("refused") == refused + num
    other_line = _ask(queue, "has its own line", priority=Priority.RESCAN)
    scorer.gate.set()
    await asyncio.gather(busy, waiting, other_line)
    assert "one more" not in scorer.scored
    assert not any(queue._room._depth)


async def test_cancelled_request_is_not_computed(queue: BatchQueue, scorer: FakeScorer) -> None:
    busy = await _occupied(queue, scorer)
    gone, stays = _ask(queue, "gone", "gone too"), _ask(queue, "stays")
    await _until(lambda: len(scorer.prepared) == 4)
    cancelled = _dropped("cancelled")
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    scorer.gate.set()
    await asyncio.gather(busy, stays)
    assert scorer.scored == ["busy", "stays"]
    assert _dropped("cancelled") == cancelled + 2
    assert not any(queue._room._depth)


async def test_cancelled_request_is_dropped_when_being_prepared(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    scorer.prepare_gate.clear()
    gone = _ask(queue, "gone")
    await asyncio.sleep(0.02)
    also_gone, stays = _ask(queue, "never prepared"), _ask(queue, "stays")
    await asyncio.sleep(0)
    gone.cancel()
    also_gone.cancel()
    await asyncio.sleep(0)
    scorer.prepare_gate.set()
    await stays
    assert scorer.prepared == ["gone", "stays"]
    assert scorer.scored == ["stays"]
    assert not any(queue._room._depth)


async def test_late_request_is_answered_at_its_deadline(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    busy = await _occupied(queue, scorer)
    with pytest.raises(TooLate):
        await _ask(queue, "late", deadline_s=_in(0.05))
    assert not scorer.gate.is_set(), "it did not wait for the engine"
    scorer.gate.set()
    await busy
    assert scorer.scored == ["busy"]


async def test_request_is_refused_at_once_when_it_cannot_be_in_time(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    queue.latency.fixed_s = 10.0
    with pytest.raises(TooLate, match="scoring takes"):
        await _ask(queue, "late", deadline_s=_in(1.0))
    queue.latency.fixed_s = 0.3
    busy = await _occupied(queue, scorer)
    ahead = [_ask(queue, f"ahead {n}") for n in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="those ahead take"):
        await _ask(queue, "late", deadline_s=_in(0.5))
    scorer.gate.set()
    await asyncio.gather(busy, *ahead)
    assert "late" not in scorer.scored


async def test_bad_listing_fails_alone(queue: BatchQueue, scorer: FakeScorer) -> None:
    busy = await _occupied(queue, scorer)
    titles = ("good", "poison", "refuse me", "fine")
    tasks = [_ask(queue, title) for title in titles]
    await _until(lambda: len(scorer.prepared) == 5)
    scorer.gate.set()
    await busy
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        Scores,
        RuntimeError,
        InvalidListing,
        Scores,
    ]
    assert scorer.batches[1:] == [list(titles), *([title] for title in titles)]


async def test_listing_fails_alone_when_it_cannot_be_prepared(queue: BatchQueue) -> None:
    good, bad = _ask(queue, "good"), _ask(queue, "fine", "unreadable", "rest")
    with pytest.raises(RuntimeError, match="cannot be prepared"):
        await bad
    assert (await good).probability_NP[0, 0] == pytest.approx(0.04)
    assert not any(queue._room._depth)


async def test_embeddings_come_only_for_who_asked(queue: BatchQueue, scorer: FakeScorer) -> None:
    busy = await _occupied(queue, scorer)
    plain, asked = _ask(queue, "a"), _ask(queue, "b", with_embeddings=True)
    await _until(lambda: len(scorer.prepared) == 3)
    scorer.gate.set()
    assert (await asked).embedding_text_ND is not None
    await asyncio.gather(busy, plain)


async def test_drain_answers_what_is_there_and_refuses_more(
    queue: BatchQueue, scorer: FakeScorer
) -> None:
    busy = await _occupied(queue, scorer)
    waiting = _ask(queue, "waits")
    await asyncio.sleep(0)
    draining = asyncio.create_task(queue.drain())
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="is stopping"):
        await _ask(queue, "more")
    scorer.gate.set()
    async with asyncio.timeout(20):
        await asyncio.gather(busy, waiting, draining)
    assert draining.result() == 0


async def test_drain_refuses_what_has_no_answer_in_time(scorer: FakeScorer) -> None:
    queue = _queue(scorer, stop_s=0.05)
    busy = await _occupied(queue, scorer)
    waiting = _ask(queue, "waits")
    await _until(lambda: "waits" in scorer.prepared)
    before = _dropped("refused")
    async with asyncio.timeout(20):
        assert await queue.drain() == 2
        for task in (busy, waiting):
            with pytest.raises(Overloaded, match="stops now"):
                await task
    assert _dropped("refused") == before + 1, "one was in a batch already"
    scorer.gate.set()
    queue.close()


async def test_warm_up_runs_every_size_and_teaches(scorer: FakeScorer) -> None:
    queue = _queue(scorer, max_batch=12)
    warm_up(scorer, scorer.prepare(ScoringItem("warm up")), 12, queue.latency)
    assert [len(batch) for batch in scorer.batches] == [1, 1, 2, 4, 8, 12]
    assert queue.latency.seconds(24) > 0
    assert batch_sizes(1) == [1]
    queue.close()


async def test_two_workers_run_two_batches_at_once(scorer: FakeScorer) -> None:
    queue = _queue(scorer, workers=2)
    scorer.gate.clear()
    tasks = [_ask(queue, title) for title in ("one", "two")]
    await _until(lambda: len(scorer.batches) == 2)
    scorer.gate.set()
    await asyncio.gather(*tasks)
    assert math.isfinite(queue._ended_s)
    queue.close()
