"""How many processes prepare listings and threads run batches, and on which cores: as set, or by what is visible."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeVar

_T = TypeVar("_T")

_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class ThreadPlan:
    """Threads and processes of a predictor; an empty set of cores leaves them where the system puts them."""

    workers: int
    """Batches that run at once."""

    preparers: int
    """Processes that decode listings and cut them into tokens."""

    worker_cores: tuple[frozenset[int], ...] = ()
    preparer_cores: tuple[frozenset[int], ...] = ()

    @property
    def engine_cores(self) -> frozenset[int]:
        """Of all batches."""
        return frozenset().union(*self.worker_cores)


def visible_cores(quota: Path = _QUOTA) -> list[int]:
    """Return the cores this process may use, no more of them than its container's quota pays for."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if has_affinity else list(range(os.cpu_count() or 1))
    try:
        limit, period = quota.read_text().split()
        paid = max(1, int(limit) // int(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return cores
    return cores[:paid]


def plan_threads(
    cores: Sequence[int],
    num_threads: int,
    *,
    workers: int = 0,
    preparers: int = 0,
    is_pinned: bool = False,
) -> ThreadPlan:
    """Return the plan for some cores.

    Args:
        cores: numbers of the cores that may be used.
        num_threads: threads that one batch runs on.
        workers: batches at once; 0 for as many as keep every core busy.
        preparers: 0 for as many as there are cores: where towers are small, most of the work is theirs.
        is_pinned: whether each thread stays on its cores; those that run batches get the first ones.
    """
    workers = workers or max(1, len(cores) // num_threads)
    preparers = preparers or max(1, len(cores))
    if not is_pinned or not hasattr(os, "sched_setaffinity"):
        return ThreadPlan(workers, preparers)
    engine = cores[: workers * num_threads]
    # A batch's own threads, shared by all workers, stay on the cores of whoever first starts them: see `run_on`.
    worker_cores = (
        tuple(frozenset([engine[n % len(engine)]]) for n in range(workers))
        if num_threads == 1
        else (frozenset(engine),) * workers
    )
    rest = frozenset(cores[len(engine) :]) or frozenset(cores)
    return ThreadPlan(workers, preparers, worker_cores, (rest,) * preparers)


def run_on(cores: frozenset[int], function: Callable[[], _T]) -> _T:
    """Return `function()`, run on a thread that stays on `cores`; threads that it starts stay there too.

    Args:
        cores: empty runs it here.
        function: called once.
    """
    if not cores:
        return function()
    with thread_pool(1, "pinned", (cores,)) as pool:
        return pool.submit(function).result()


def thread_pool(
    num_threads: int, name: str, cores: Sequence[frozenset[int]] = ()
) -> ThreadPoolExecutor:
    """Return a pool whose threads stay on the given cores, one set for each thread."""
    if not cores:
        return ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    free: SimpleQueue[frozenset[int]] = SimpleQueue()
    for own in cores:
        free.put(own)
    # On Linux 0 is the calling thread, not the process.
    return ThreadPoolExecutor(
        num_threads,
        thread_name_prefix=name,
        initializer=lambda: os.sched_setaffinity(0, free.get()),
    )
