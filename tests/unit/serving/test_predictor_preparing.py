"""What is prepared together, and when an engine waits for what is still to be prepared."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from moderation.clock import SystemClock
from moderation.scoring import PreparedItem, Scores, ScoringItem
from moderation.serving_rules import PredictorRules
from serving.predictor.backlog import Priority
from serving.predictor.queue import BatchQueue, Terms
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.scorers import FakeScorer, PreparingThreads

LINES = {name: {"items": 32, "mib": 1} for name in ("upload", "rescan", "backfill")}
RULES = {
    "max_batch": 8,
    "wait_ms": 0.0,
    "fair_every": 16,
    "behind_ms": 100.0,
    "stop_s": 5.0,
    "lines": LINES,
}
PHOTO = (b"a photo",)


class SteppedScorer(FakeScorer):
    """Prepares as many listings as it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = threading.Semaphore(0)

    def let(self, number: int) -> None:
        """Let so many more be prepared."""
        self.steps.release(number)

    def prepare(self, item: ScoringItem) -> PreparedItem:
        """Wait for its turn, then prepare."""
        assert self.steps.acquire(timeout=5)
        return super().prepare(item)


@pytest.fixture
async def scorer() -> AsyncIterator[SteppedScorer]:
    scorer = SteppedScorer()
    yield scorer
    scorer.let(100)


def _queue(scorer: FakeScorer, wait_ms: float = 0.0) -> BatchQueue:
    # Copied unchecked: where a test shows that nobody waits, what it would wait is longer than is allowed.
    rules = PredictorRules.model_validate(RULES).model_copy(update={"wait_ms": wait_ms})
    return BatchQueue(scorer, PreparingThreads(scorer.prepare), rules, ThreadPlan(1, 1))


def _ask(queue: BatchQueue, title: str, images: tuple[bytes, ...] = (), **terms: Any) -> Any:
    return asyncio.create_task(queue.score([ScoringItem(title, "", images)], Terms(**terms)))


async def _batches(scorer: FakeScorer, number: int) -> list[list[str]]:
    async with asyncio.timeout(20):
        while len(scorer.batches) < number:
            await asyncio.sleep(0.002)
    return scorer.batches


async def test_texts_that_wait_are_prepared_together(scorer: SteppedScorer) -> None:
    queue = _queue(scorer)
    calls: list[asyncio.Task[Scores]] = [_ask(queue, title) for title in "abcde"]
    await asyncio.sleep(0.02)  # the first is being prepared, the others wait
    scorer.let(5)
    assert await _batches(scorer, 2) == [["a"], ["b", "c", "d", "e"]]
    await asyncio.gather(*calls)
    queue.close()


async def test_a_text_that_cannot_be_prepared_fails_alone(scorer: SteppedScorer) -> None:
    queue = _queue(scorer)
    calls = [_ask(queue, title) for title in ("a", "b", "unreadable", "c")]
    await asyncio.sleep(0.02)
    scorer.let(4)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, Scores) for answer in answers] == [True, True, False, True]
    assert str(answers[2]) == "cannot be prepared"
    queue.close()


async def test_a_listing_that_cannot_be_prepared_teaches_no_time(scorer: SteppedScorer) -> None:
    queue = _queue(scorer)
    scorer.let(2)
    with pytest.raises(RuntimeError, match="cannot be prepared"):
        await _ask(queue, "unreadable")
    assert queue._room._prepare_s == 0
    await _ask(queue, "readable")
    assert queue._room._prepare_s > 0
    queue.close()


async def test_photos_are_prepared_one_by_one(scorer: SteppedScorer) -> None:
    queue = _queue(scorer)
    calls = [_ask(queue, title, PHOTO) for title in "abc"]
    calls.append(_ask(queue, "text"))
    calls.append(_ask(queue, "photo", PHOTO))
    for number, batch in enumerate(["a", "b", "c", "text", "photo"], start=1):
        scorer.let(1)
        assert (await _batches(scorer, number))[-1] == [batch]
    await asyncio.gather(*calls)
    queue.close()


async def test_an_engine_waits_for_what_is_still_to_be_prepared(scorer: SteppedScorer) -> None:
    queue = _queue(scorer, wait_ms=60_000.0)
    calls = [_ask(queue, title, PHOTO) for title in "abc"]
    scorer.let(2)
    await asyncio.sleep(0.05)
    assert scorer.batches == [["a", "b"]], "the last is being prepared: nobody waits for a thread"
    scorer.let(1)
    assert await _batches(scorer, 2) == [["a", "b"], ["c"]]
    await asyncio.gather(*calls)
    queue.close()


async def test_nobody_waits_where_sharing_a_batch_saves_nothing(scorer: SteppedScorer) -> None:
    queue = _queue(scorer, wait_ms=60_000.0)
    queue.latency.fixed_s, queue.latency.pass_s = 0.001, 0.010
    calls = [_ask(queue, title, PHOTO) for title in "abc"]
    for number, title in enumerate("abc", start=1):
        scorer.let(1)
        assert (await _batches(scorer, number))[-1] == [title]
    await asyncio.gather(*calls)
    queue.close()


async def test_an_engine_waits_no_longer_than_the_contract_says(scorer: SteppedScorer) -> None:
    queue = _queue(scorer, wait_ms=30.0)
    calls = [_ask(queue, title, PHOTO) for title in "abc"]
    scorer.let(1)
    assert await _batches(scorer, 1) == [["a"]]
    scorer.let(2)
    await asyncio.gather(*calls)
    queue.close()


async def test_an_upload_does_not_wait_for_backfill_to_be_prepared(scorer: SteppedScorer) -> None:
    queue = _queue(scorer, wait_ms=60_000.0)
    upload = _ask(queue, "new", PHOTO)
    flood = [_ask(queue, f"old {n}", PHOTO, priority=Priority.BACKFILL) for n in range(4)]
    scorer.let(1)
    async with asyncio.timeout(20):
        await upload
    assert scorer.batches == [["new"]]
    scorer.let(4)
    await asyncio.gather(*flood)
    queue.close()


async def test_nobody_waits_whom_it_could_make_late(scorer: SteppedScorer) -> None:
    queue = _queue(scorer, wait_ms=60_000.0)
    hurried = _ask(queue, "hurried", PHOTO, deadline_s=SystemClock().monotonic() + 30)
    others = [_ask(queue, title, PHOTO) for title in "ab"]
    scorer.let(1)
    async with asyncio.timeout(20):
        await hurried
    scorer.let(2)
    await asyncio.gather(*others)
    queue.close()


async def test_an_upload_waits_for_one_photo_of_backfill_and_not_for_all(
    scorer: SteppedScorer,
) -> None:
    queue = _queue(scorer)
    old = _ask(queue, "old", PHOTO * 8, priority=Priority.BACKFILL)
    await asyncio.sleep(0.02)  # its first photo is being prepared
    new = _ask(queue, "new", PHOTO)
    scorer.let(2)
    async with asyncio.timeout(20):
        await new
    assert (scorer.prepared, scorer.batches) == (["old", "new"], [["new"]])
    scorer.let(7)
    async with asyncio.timeout(20):
        await old
    assert scorer.batches == [["new"], ["old"]]
    assert queue._room._depth == [0, 0, 0]
    queue.close()


@pytest.mark.parametrize("num_prepared", [1, 2, 3])
async def test_a_listing_that_leaves_between_its_photos_leaves_nothing_behind(
    scorer: SteppedScorer, num_prepared: int
) -> None:
    queue = _queue(scorer)
    gone = _ask(queue, "gone", PHOTO * 4)
    scorer.let(num_prepared)
    await asyncio.sleep(0.05)
    gone.cancel()
    after = _ask(queue, "after", PHOTO * 2)
    scorer.let(10)
    async with asyncio.timeout(20):
        await after
    assert scorer.batches == [["after"]]
    assert queue._room._depth == [0, 0, 0]
    queue.close()


async def test_a_listing_whose_photo_cannot_be_prepared_fails_once(scorer: SteppedScorer) -> None:
    queue = _queue(scorer)
    queue._preparing = PreparingThreads(scorer.prepare, 2)
    scorer.let(20)
    answers = [_ask(queue, title, PHOTO * 3) for title in ("unreadable", "readable")]
    bad, good = await asyncio.gather(*answers, return_exceptions=True)
    assert str(bad) == "cannot be prepared"
    assert isinstance(good, Scores)
    assert queue._room._depth == [0, 0, 0]
    queue.close()


async def test_photos_of_one_listing_are_prepared_one_after_the_other(
    scorer: SteppedScorer,
) -> None:
    queue = _queue(scorer)
    preparing = PreparingThreads(scorer.prepare, 4)
    queue._preparing = preparing
    listing = _ask(queue, "eight", PHOTO * 8)
    await asyncio.sleep(0.05)
    assert preparing._running == 1, "bytes that bring processes down bring down one at a time"
    scorer.let(8)
    async with asyncio.timeout(20):
        await listing
    queue.close()
