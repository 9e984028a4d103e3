"""What is fuzzed: inputs, the properties that must hold of each, and the limits on time and memory."""

import gc
import random
import re
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

Mutate = Callable[[random.Random, Sequence[bytes]], bytes]

_TRIES: Final = 4
"""A slow input is run again, so that a page fault or a collection is not taken for it; the fastest run counts."""

_FINDINGS: Final = 20

_KEPT_MB: Final = 150
"""Caches that fill, the corpus of the guided half, and what the allocator keeps; a leak of 2 kB an input shows."""


@dataclass(frozen=True)
class Target:
    """One reader of hostile bytes."""

    name: str
    seeds: Callable[[], list[bytes]]
    """Inputs to begin with, built at run time: valid ones, and hostile ones that chance would not come to."""

    mutate: Mutate
    check: Callable[[bytes], int]
    """Reads one input and returns how many units of work it may cost; anything that it raises is a defect."""

    share: float
    """Of the inputs, in parts."""

    ms: float
    """CPU milliseconds that any input may take, however small."""

    us_per_unit: float
    """CPU microseconds on top, for each unit."""

    unit: str
    megabytes: int
    """Of memory on top of what the process holds, that any input may take while it is read."""

    modules: tuple[str, ...]
    """Whose branches guide the coverage-guided half; none, where each input costs too much for it."""

    bytes_per_unit: float = 0
    """Of memory on top, for each unit."""


@dataclass(frozen=True)
class Finding:
    """One input that broke a property or a limit."""

    what: str
    data: bytes

    @property
    def kind(self) -> str:
        """What tells one defect from another: what was said without its numbers, and where."""
        return re.sub(r"0x\w+|\d+|'.*'", "", self.what[-300:])


@dataclass
class Run:
    """What came of the inputs of one target."""

    target: Target
    inputs: int = 0
    seconds: float = 0.0
    slowest_ms: float = 0.0
    slowest: bytes = b""
    nearest: float = 0.0
    """Largest share of its limit that an input took."""

    peak_mb: float = 0.0
    """Most memory that reading one input took."""

    kept_mb: float = 0.0
    """By how much the process's memory has grown since it had read the seeds."""

    findings: list[Finding] = field(default_factory=list)
    _warm_kb: int = 0

    def warm(self) -> None:
        """Read every seed once: what that imports and caches is no input's cost. Then count them as inputs."""
        seeds = self.target.seeds()
        for data in seeds:
            with suppress(Exception):
                self.target.check(data)
        gc.collect()
        self._warm_kb, _ = _memory_kb()
        for data in seeds:
            self.one(data)

    def one(self, data: bytes) -> None:
        """Read one input and keep what it cost, and what it broke."""
        self.inputs += 1
        before_kb, _ = _memory_kb()
        try:
            cost_s, units = self._cost(data)
        except Exception as error:
            told = "".join(traceback.format_exception(error)[-3:])
            self._keep(Finding(told, data))
            return
        took_mb = (_memory_kb()[1] - before_kb) / 1024
        self.peak_mb = max(self.peak_mb, took_mb)
        limit_mb = self.target.megabytes + units * self.target.bytes_per_unit / 2**20
        if took_mb > limit_mb:
            self._keep(Finding(f"took {took_mb:.0f} MB of {limit_mb:.0f}", data))
        limit_s = self._limit_s(units)
        self.nearest = max(self.nearest, cost_s / limit_s)
        if cost_s * 1e3 > self.slowest_ms:
            self.slowest_ms, self.slowest = cost_s * 1e3, data
        if cost_s > limit_s:
            said = (
                f"took {cost_s * 1e3:.1f} ms of {limit_s * 1e3:.1f} for {units} {self.target.unit}"
            )
            self._keep(Finding(said, data))

    def finish(self) -> None:
        """Judge what the process kept of what it read."""
        gc.collect()
        self.kept_mb = (_memory_kb()[0] - self._warm_kb) / 1024
        if self.kept_mb > _KEPT_MB:
            self._keep(Finding(f"kept {self.kept_mb:.0f} MB after all inputs; {_KEPT_MB}", b""))

    def _cost(self, data: bytes) -> tuple[float, int]:
        best = float("inf")
        for _ in range(_TRIES):
            begin = time.thread_time()
            units = self.target.check(data)
            took = time.thread_time() - begin
            self.seconds += took
            best = min(best, took)
            if best <= self._limit_s(units):
                break
        return best, units

    def _limit_s(self, units: int) -> float:
        return self.target.ms / 1e3 + units * self.target.us_per_unit / 1e6

    def _keep(self, finding: Finding) -> None:
        kinds = {one.kind for one in self.findings}
        if len(self.findings) < _FINDINGS and finding.kind not in kinds:
            self.findings.append(finding)


def run(target: Target, num_inputs: int, seed: int) -> Run:
    """Return what came of `num_inputs` mutations of the target's seeds; the same for the same seed."""
    done, rng = Run(target), random.Random(f"{target.name} {seed}")
    seeds = target.seeds()
    done.warm()
    for _ in range(num_inputs):
        done.one(target.mutate(rng, seeds))
    done.finish()
    return done


def _memory_kb() -> tuple[int, int]:
    """Return what the process holds in memory and the most that it held since the last call."""
    facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return int(facts["VmRSS"].split()[0]), int(facts["VmHWM"].split()[0])
