"""One batch that stalls, in the real queue on a simulated clock: the engine is used again, at any age of the model."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest

from moderation.clock import SimulatedClock
from moderation.scoring import PreparedItem, Scores, ScoringItem
from moderation.serving_rules import PredictorRules
from serving.predictor.latency import LatencyModel
from serving.predictor.queue import BatchQueue, Terms, TooLate
from serving.predictor.threads import ThreadPlan
from tests.unit.serving.scorers import FakeScorer, PreparingThreads

USUAL_S = 0.008
DEADLINE_S = 1.7
LINES = {name: {"items": 8, "mib": 1} for name in ("upload", "rescan", "backfill")}
RULES = PredictorRules.model_validate(
    {
        "max_batch": 4,
        "wait_ms": 5.0,
        "fair_every": 16,
        "behind_ms": 100.0,
        "stop_s": 1.0,
        "lines": LINES,
    }
)


class TimedScorer(FakeScorer):
    """Takes the simulated seconds that a test sets."""

    def __init__(self, clock: SimulatedClock) -> None:
        super().__init__()
        self.clock, self.takes_s = clock, USUAL_S

    def score_prepared(
        self, prepared: Sequence[PreparedItem], *, with_embeddings: bool = False
    ) -> Scores:
        self.clock.advance(self.takes_s)
        return super().score_prepared(prepared, with_embeddings=with_embeddings)


class Engine:
    """A queue whose batches take what a test says."""

    def __init__(self) -> None:
        self.clock = SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC))
        self.scorer = TimedScorer(self.clock)
        self.queue = BatchQueue(
            self.scorer, PreparingThreads(self.scorer.prepare), RULES, ThreadPlan(1, 1), self.clock
        )

    @property
    def latency(self) -> LatencyModel:
        return self.queue.latency

    async def serve(self, num: int, takes_s: float = USUAL_S, *, left_s: float = 1e9) -> int:
        """Return how often `num` listings, one after the other, were refused before each was scored."""
        self.scorer.takes_s, refused = takes_s, 0
        for _ in range(num):
            while True:
                deadline_s = self.clock.monotonic() + left_s
                try:
                    await self.queue.score([ScoringItem("title")], Terms(deadline_s=deadline_s))
                    break
                except TooLate:
                    refused += 1
                    assert refused < 100, "it refuses for ever"
        return refused


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    yield engine
    engine.queue.close()


@pytest.mark.parametrize("stall_s", [30.0, 120.0])
@pytest.mark.parametrize("served", [0, 5, 50, 1000])
async def test_one_stall_closes_nothing(engine: Engine, served: int, stall_s: float) -> None:
    for size in (1, 2, 4, 8, 16, 32):
        engine.latency.learn(2 * size, 0.004 + 0.002 * size)
    await engine.serve(served)
    await engine.serve(1, stall_s)
    assert await engine.serve(20, left_s=DEADLINE_S) == 0


async def test_a_stall_of_the_very_first_batch_is_mended_by_a_few_refusals(engine: Engine) -> None:
    await engine.serve(1, 30.0)
    assert 0 < await engine.serve(20, left_s=DEADLINE_S) < 8


async def test_an_engine_that_was_slow_for_long_is_used_again_when_it_is_well(
    engine: Engine,
) -> None:
    await engine.serve(500, 6.0)
    assert engine.latency.seconds(1) == pytest.approx(6.0, rel=0.05)
    assert 0 < await engine.serve(20, left_s=DEADLINE_S) < 8


@pytest.mark.parametrize(("times", "batches"), [(3, 150), (100, 250)])
async def test_an_engine_that_is_slower_for_good_is_learnt(
    engine: Engine, times: int, batches: int
) -> None:
    await engine.serve(300)
    await engine.serve(batches, times * USUAL_S)
    assert engine.latency.seconds(1) > 0.8 * times * USUAL_S


async def test_an_engine_that_is_too_slow_is_tried_in_vain_now_and_then(engine: Engine) -> None:
    await engine.serve(300, 6.0)
    assert await engine.serve(10, 6.0, left_s=DEADLINE_S) >= 10, "what is late is told at once"
    assert engine.latency.seconds(1) == pytest.approx(6.0, rel=0.05), "a trial unlearns nothing"


async def test_refusals_while_a_batch_runs_doubt_nothing(engine: Engine) -> None:
    await engine.serve(100, 1.0)
    engine.scorer.gate.clear()
    running = asyncio.create_task(engine.serve(1, 1.0))
    while len(engine.scorer.batches) < 101:
        await asyncio.sleep(0.002)
    hopeless = Terms(deadline_s=engine.clock.monotonic() + 0.5)
    for _ in range(5):
        with pytest.raises(TooLate):
            await engine.queue.score([ScoringItem("hopeless")], hopeless)
    assert engine.latency.seconds(1) == pytest.approx(1.0, rel=0.05)
    engine.scorer.gate.set()
    await running
