"""Everything that reads bytes from outside, on a few hostile inputs; `make fuzz` reads a hundred thousand."""

import mmap
import random
import time
from dataclasses import replace

import pytest

from tests.fuzz.__main__ import run_child
from tests.fuzz.mutations import of_bytes
from tests.fuzz.target import Run, Target, run
from tests.fuzz.targets import TARGETS

# Each of its inputs takes a second; one that is as large as any is read below.
_SMALL = sorted(set(TARGETS) - {"large-image"})


def _target(check: object, **changes: object) -> Target:
    assert callable(check)
    made = Target("made", lambda: [b"abc"], of_bytes, check, 1, 50, 1, "bytes", 30, ())
    return replace(made, **changes)  # type: ignore[arg-type]


def _told(done: Run) -> str:
    return "\n".join(f"{finding.what}\n{finding.data[:400]!r}" for finding in done.findings)


@pytest.mark.parametrize("name", _SMALL)
def test_readers_hold_on_hostile_input(name: str) -> None:
    done = run(TARGETS[name], 60, seed=7)
    assert not done.findings, _told(done)


def test_a_small_file_of_many_pixels_takes_bounded_memory() -> None:
    target = TARGETS["large-image"]
    done = Run(target)
    done.one(target.seeds()[0])
    assert not done.findings, _told(done)
    assert done.peak_mb > 100, "it is measured at all"


def test_the_same_seed_gives_the_same_inputs() -> None:
    target = TARGETS["upload"]
    seeds = target.seeds()
    first, again = (
        [target.mutate(rng, seeds) for _ in range(50)]
        for rng in (random.Random(1), random.Random(1))
    )
    assert first == again


def test_what_raises_is_found_once() -> None:
    def check(data: bytes) -> int:
        if len(data) > 2:
            raise KeyError("lost")
        return len(data)

    [finding] = run(_target(check), 30, seed=1).findings
    assert "lost" in finding.what
    assert len(finding.data) > 2


def test_what_is_slow_is_found() -> None:
    def check(data: bytes) -> int:
        end = time.thread_time() + 0.02
        while time.thread_time() < end:
            pass
        return len(data)

    done = run(_target(check, ms=5, us_per_unit=0.001), 1, seed=1)
    assert any("ms of" in finding.what for finding in done.findings)
    assert not run(_target(check, ms=500), 1, seed=1).findings


def test_what_takes_or_keeps_memory_is_found() -> None:
    kept: list[mmap.mmap] = []

    def take(data: bytes) -> int:
        # Fresh pages: what malloc gives may have been held since an earlier test.
        with mmap.mmap(-1, 60_000_000) as pages:
            for at in range(0, len(pages), mmap.PAGESIZE):
                pages[at] = 1
        return len(data)

    def keep(data: bytes) -> int:
        pages = mmap.mmap(-1, 20_000_000)
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1
        kept.append(pages)
        return len(data)

    assert any("MB of 30" in one.what for one in run(_target(take), 1, seed=1).findings)
    assert any("kept" in one.what for one in run(_target(keep), 12, seed=1).findings)


def test_a_process_that_ends_is_found() -> None:
    figures = run_child(TARGETS["upload"], 1, guided=False, seed=1, python="/bin/false")
    [(said, _)] = figures.findings
    assert "ended with 1" in said


def test_a_guided_process_reports_what_it_read() -> None:
    figures = run_child(TARGETS["statement"], 60, guided=True, seed=1)
    assert figures.findings == ()
    assert figures.inputs == 60
