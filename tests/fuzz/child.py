"""One target in a process of its own: what ends the process, or fills its memory, is seen from outside.

    python -m tests.fuzz.child '{"target": ..., "inputs": ..., "seed": ..., "modules": [...], "out": ...}'

With `modules`, their branches guide libFuzzer through atheris; without, seeded mutations alone.
"""

import base64
import json
import logging
import os
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TIMEOUT_S = 60
_MEMORY_MB = 4_096
_MAX_BYTES = 1 << 17


@dataclass(frozen=True)
class Job:
    """What one process reads."""

    target: str
    inputs: int
    seed: int
    modules: tuple[str, ...]
    out: str
    """Folder for figures, and for the last input: the one at fault where the process ends."""


@dataclass(frozen=True)
class Figures:
    """What one process found, as plain data."""

    target: str
    guided: bool
    inputs: int
    seconds: float
    slowest_ms: float
    slowest_bytes: int
    nearest: float
    peak_mb: float
    kept_mb: float
    findings: tuple[tuple[str, str], ...]
    """What broke, and the input in base64."""


def main(job: Job) -> None:
    """Read the inputs of a job and write its figures."""
    logging.disable(logging.CRITICAL)
    if job.modules:
        _guided(job)
    from tests.fuzz.target import Run
    from tests.fuzz.targets import TARGETS

    target = TARGETS[job.target]
    run, rng, seeds = Run(target), random.Random(f"{job.target} {job.seed}"), target.seeds()
    run.warm()
    with Path(job.out, "last").open("wb", buffering=0) as last:
        while run.inputs < job.inputs:
            _one(run, last, target.mutate(rng, seeds))
    _finish(run, job)


def _one(run: Any, last: Any, data: bytes) -> None:
    last.seek(0)
    last.write(data)
    last.truncate()
    run.one(data)


def _guided(job: Job) -> None:
    """Read the inputs that libFuzzer thinks up; never returns."""
    import atheris

    with atheris.instrument_imports(include=list(job.modules)):
        from tests.fuzz.target import Run
        from tests.fuzz.targets import TARGETS

    target, corpus = TARGETS[job.target], Path(job.out, "corpus")
    corpus.mkdir()
    seeds = target.seeds()
    for number, data in enumerate(seeds):
        (corpus / str(number)).write_bytes(data)
    run = Run(target)
    run.warm()
    last = Path(job.out, "last").open("wb", buffering=0)  # noqa: SIM115 - for the life of the process

    def one(data: bytes) -> None:
        _one(run, last, data)
        if run.inputs >= job.inputs:
            _finish(run, job)
            os._exit(0)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return target.mutate(rng, [data, rng.choice(seeds)])[:max_size]

    options = {
        "seed": job.seed,
        "max_len": _MAX_BYTES,
        "timeout": _TIMEOUT_S,
        "rss_limit_mb": _MEMORY_MB,
        "artifact_prefix": f"{job.out}/",
        "verbosity": 0,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup(["fuzz", *flags, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _finish(run: Any, job: Job) -> None:
    run.finish()
    figures = Figures(
        target=job.target,
        guided=bool(job.modules),
        inputs=run.inputs,
        seconds=run.seconds,
        slowest_ms=run.slowest_ms,
        slowest_bytes=len(run.slowest),
        nearest=run.nearest,
        peak_mb=run.peak_mb,
        kept_mb=run.kept_mb,
        findings=tuple((one.what, base64.b64encode(one.data).decode()) for one in run.findings),
    )
    Path(job.out, "figures.json").write_text(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
