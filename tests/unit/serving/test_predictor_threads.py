import os
from pathlib import Path
from typing import Any

import pytest

from moderation.bundle import Bundle
from moderation.encoders import TextEncoder
from moderation.scoring import Scorer
from serving.predictor.latency import LatencyModel
from serving.predictor.specimen import specimen
from serving.predictor.threads import ThreadPlan, plan_threads, run_on, thread_pool, visible_cores
from serving.predictor.warming import warm_up


@pytest.mark.parametrize(
    ("num_cores", "num_threads", "expected"),
    [
        (1, 1, ThreadPlan(1, 1)),
        (2, 2, ThreadPlan(1, 2)),
        (8, 1, ThreadPlan(8, 8)),
        (8, 4, ThreadPlan(2, 8)),
    ],
)
def test_plan_fills_the_cores(num_cores: int, num_threads: int, expected: ThreadPlan) -> None:
    assert plan_threads(range(num_cores), num_threads) == expected


def test_plan_follows_the_settings() -> None:
    assert plan_threads(range(8), 1, workers=3, preparers=2) == ThreadPlan(3, 2)


def test_pinned_workers_get_cores_of_their_own() -> None:
    plan = plan_threads(range(4), 1, workers=2, preparers=1, is_pinned=True)
    assert plan.worker_cores == (frozenset({0}), frozenset({1}))
    assert plan.preparer_cores == (frozenset({2, 3}),)
    shared = plan_threads(range(4), 2, workers=2, is_pinned=True)
    assert set(shared.worker_cores) == {frozenset({0, 1, 2, 3})}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin threads")
def test_threads_stay_on_their_cores() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    with thread_pool(1, "pinned", (frozenset({core}),)) as pool:
        assert pool.submit(os.sched_getaffinity, 0).result() == {core}
    assert os.sched_getaffinity(0) == before, "only the thread is pinned"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin threads")
def test_the_threads_that_run_the_towers_stay_on_their_cores(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = min(os.sched_getaffinity(0))
    plan = plan_threads([core], 2, workers=1, preparers=1, is_pinned=True)
    assert plan.engine_cores == {core}
    scorer = run_on(plan.engine_cores, lambda: Scorer(tiny_bundle, 2))
    prepared, seen = scorer.prepare(specimen()), list[set[int]]()
    real = TextEncoder._run_one

    def told(self: TextEncoder, *arguments: Any) -> Any:
        seen.append(os.sched_getaffinity(0))
        return real(self, *arguments)

    run_on(plan.engine_cores, lambda: warm_up(scorer, prepared, 4, LatencyModel()))
    monkeypatch.setattr(TextEncoder, "_run_one", told)
    with thread_pool(plan.workers, "score", plan.worker_cores) as pool:
        pool.submit(scorer.score_prepared, [prepared] * 4).result()
    assert seen == [{core}] * 4


@pytest.mark.parametrize(
    ("text", "most"), [("100000 100000", 1), ("max 100000", None), ("", None), ("50000 100000", 1)]
)
def test_cores_are_bounded_by_the_quota(text: str, most: int | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    cores = visible_cores(tmp_path / "cpu.max")
    assert len(cores) == most if most else len(cores) >= 1
    assert len(visible_cores(tmp_path / "no such file")) >= 1
