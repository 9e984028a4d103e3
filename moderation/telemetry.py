"""Logs as JSON lines and stage times as one histogram; configured once per process, never in a library."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Histogram

from moderation.clock import Clock, SystemClock

STAGE_SECONDS: Final = Histogram(
    "tidegate_stage_seconds",
    "Time spent in one stage of a decision or a pipeline step.",
    ["stage"],
    buckets=(
        0.0005,
        0.001,
        0.0025,
        0.005,
        0.01,
        0.025,
        0.05,
        0.1,
        0.25,
        0.5,
        1,
        2.5,
        5,
        10,
        60,
        600,
    ),
)
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a line: constant message, fields from `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line: dict[str, object] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(service: str, *, level: int = logging.INFO) -> None:
    """Send this process's logs to standard error as JSON lines."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[stream], level=level, force=True)


@contextmanager
def span(stage: str, clock: Clock | None = None) -> Iterator[None]:
    """Measure one stage into the histogram; `stage` comes from a closed set of names."""
    clock = clock or SystemClock()
    begin = clock.monotonic()
    try:
        yield
    finally:
        STAGE_SECONDS.labels(stage).observe(clock.monotonic() - begin)
