"""Runs a pipeline on this machine: Kubeflow Pipelines' local runner in a process group of its own.

The runner prints everything to standard output, keeps no log, and leaves a running step behind when it is
terminated. Here its output goes to one log file per run, its progress to a callback, and the whole group is ended
with the caller.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from moderation.clock import Clock, SystemClock
from moderation.errors import PermanentError, TemporaryError
from pipelines.parameters import Parameters
from pipelines.steps import OnStep, StepEvent

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_STARTED: Final = re.compile(r"- INFO - Executing task '([\w-]+)'")
_FINISHED: Final = re.compile(r"- INFO - Task '([\w-]+)' finished with status SUCCESS")
_FAILED: Final = re.compile(r"Task '([\w-]+)' finished with status FAILURE")
_CACHED: Final = re.compile(r"Task ([\w-]+) cache hit")
_PROGRESS: Final = re.compile(r"@progress (\d+)/(\d+)(?: (.*))?$")
_ERROR: Final = re.compile(r"^\s*(?:[\w.]+\.)?([A-Z]\w+): (.+)$")
"""Last line of a traceback: the class without its module, and the message."""

# A group that ignores a polite request for this long is ended for good.
_GRACE_S: Final = 5.0


class PipelineFailed(PermanentError):
    """A step failed; the message says which and why, `log` holds everything."""

    def __init__(self, step: str, reason: str, log: Path) -> None:
        super().__init__(f"step {step} failed: {reason}\nThe whole log is {log}")
        self.step = step
        self.log = log


@dataclass(frozen=True)
class RunResult:
    """What a finished run gave."""

    outputs: dict[str, str]
    log: Path
    seconds: dict[str, float]
    """Seconds by step; 0 where a cached result served."""


def run_training(
    parameters: Parameters, *, on_step: OnStep, environment: Mapping[str, str] | None = None
) -> RunResult:
    """Run the training pipeline; see `run_pipeline`."""
    runs = Path(parameters.home) / "runs"
    return run_pipeline(
        "pipelines.training:training",
        parameters.as_arguments(),
        runs=runs,
        name=f"training-{parameters.logical_date}",
        on_step=on_step,
        environment=environment,
    )


def run_pipeline(
    pipeline: str,
    arguments: Mapping[str, Any],
    *,
    runs: Path,
    name: str,
    on_step: OnStep,
    environment: Mapping[str, str] | None = None,
) -> RunResult:
    """Return the outcome of a run; steps whose inputs are unchanged are taken from the cache.

    Args:
        pipeline: `module:function` of a pipeline.
        arguments: its parameters.
        runs: folder of the runs and of their cache; one run at a time works in it.
        name: first part of the log's name.
        on_step: told of every step as it goes.
        environment: settings of the steps as variables, beside those of this process.

    Raises:
        PipelineFailed: if a step fails.
        TemporaryError: if another run works in `runs`.
    """
    clock = SystemClock()
    runs.mkdir(parents=True, exist_ok=True)
    with _only_run(runs):
        stem = runs / f"{name}-{clock.now():%Y%m%dT%H%M%S}"
        request, result, log = (stem.with_suffix(s) for s in (".request", ".result", ".log"))
        asked = {"pipeline": pipeline, "arguments": dict(arguments)}
        asked |= {"root": str(runs.resolve()), "result": str(result)}
        request.write_text(json.dumps(asked), encoding="utf-8")
        watcher = _Watcher(on_step, clock)
        with log.open("w", encoding="utf-8") as sink, _driver(request, environment) as process:
            assert process.stdout is not None
            for line in process.stdout:
                sink.write(line)
                sink.flush()
                watcher.see(line)
        if process.returncode != 0:
            raise PipelineFailed(watcher.running or "start", watcher.reason, log)
    return RunResult(json.loads(result.read_text(encoding="utf-8")), log, watcher.seconds)


class _Watcher:
    """Reads the runner's output line by line and tells what happened."""

    def __init__(self, on_step: OnStep, clock: Clock) -> None:
        self._on_step, self._clock = on_step, clock
        self._began = clock.monotonic()
        self.running = ""
        self.reason = "no reason was printed"
        # What the runner says after a failure adds nothing to the step's own last words.
        self._listening = True
        self.seconds: dict[str, float] = {}

    def see(self, raw: str) -> None:
        line = _COLOUR.sub("", raw).rstrip()
        if match := _STARTED.search(line):
            self.running, self._began = match[1], self._clock.monotonic()
            self._on_step(StepEvent(match[1], "started"))
        elif match := _CACHED.search(line):
            self.seconds[match[1]] = 0.0
            self._on_step(StepEvent(match[1], "cached"))
        elif match := _FINISHED.search(line):
            self._end(match[1], "finished")
            self.running = ""
        elif match := _FAILED.search(line):
            self._end(match[1], "failed")
            self._listening = False
        elif match := _PROGRESS.search(line):
            done, total = int(match[1]), int(match[2])
            self._on_step(
                StepEvent(self.running, "progress", done=done, total=total, note=match[3] or "")
            )
        elif self._listening and (match := _ERROR.match(line)):
            self.reason = f"{match[1]}: {match[2]}"

    def _end(self, step: str, what: Literal["finished", "failed"]) -> None:
        seconds = self._clock.monotonic() - self._began
        self.seconds[step] = seconds
        self._on_step(StepEvent(step, what, seconds))


@contextmanager
def _driver(
    request: Path, environment: Mapping[str, str] | None
) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-u", "-W", "ignore", "-m", "pipelines.local_driver", str(request)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **(environment or {})},  # noqa: TID251  # handed on, not read
    )
    with process:
        try:
            yield process
            process.wait()
        finally:
            _end_group(process)


def _end_group(process: "subprocess.Popen[str]") -> None:
    """End the driver and every step that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def _only_run(runs: Path) -> Iterator[TextIO]:
    with (runs / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TemporaryError(f"another pipeline run works in {runs}; wait for it") from error
        yield lock
