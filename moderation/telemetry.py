"""Logs as JSON lines, stage times as a histogram, stages as spans; configured once per process, never in a library."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from types import TracebackType
from typing import Any, Final

from prometheus_client import Histogram

from moderation import tracing
from moderation.clock import Clock, SystemClock
from moderation.settings import Settings
from moderation.tracing import Attribute

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
        if "trace_id" not in line and (trace_id := tracing.trace_id()):
            line["trace_id"] = trace_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(service: str, *, level: int = logging.INFO) -> None:
    """Send this process's logs to standard error as JSON lines."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonLines(service))
    logging.basicConfig(handlers=[stream], level=level, force=True)


def export_traces(service: str, config: Settings) -> None:
    """Send this process's spans to the collector that the settings name, if they name one; once per process."""
    if config.otlp_endpoint:
        tracing.export(service, config.otlp_endpoint, share=config.otlp_share)


@contextmanager
def request_span(
    stage: str, traceparent: str | None, clock: Clock | None = None, **attributes: Attribute
) -> Iterator[None]:
    """Measure one request: in the caller's trace, or in one of its own; `span` inside becomes part of it.

    Args:
        stage: of the whole request, from a closed set.
        traceparent: W3C trace context as the caller sent it, if it did.
        clock: tells how long it took.
        attributes: facts from closed sets, of `tracing.ATTRIBUTES`.
    """
    with tracing.continued(traceparent), _Span(stage, clock, attributes, is_root=True):
        yield


def span(
    stage: str, clock: Clock | None = None, **attributes: Attribute | None
) -> AbstractContextManager[None]:
    """Measure one stage: into the histogram, and as a span of the request's trace where traces are exported.

    Args:
        stage: from a closed set of names.
        clock: tells how long it took.
        attributes: facts from closed sets, of `tracing.ATTRIBUTES`; never of a listing or a seller.
    """
    return _Span(stage, clock, attributes)


def past_span(stage: str, begin_s: float, seconds: float) -> None:
    """Measure one stage that was taken in another process of this machine.

    Args:
        stage: from a closed set of names.
        begin_s: when it began, on the system's monotonic clock.
        seconds: how long it took.
    """
    _seconds(stage).observe(seconds)
    tracing.record_past(stage, _SYSTEM_CLOCK.monotonic() - begin_s, seconds)


class _Span:
    """One stage; a class, as a generator's frame costs more than the measuring."""

    __slots__ = ("_attributes", "_begin", "_block", "_clock", "_is_root", "_stage")

    def __init__(
        self,
        stage: str,
        clock: Clock | None,
        attributes: dict[str, Any],
        *,
        is_root: bool = False,
    ) -> None:
        self._stage, self._clock, self._attributes = stage, clock or _SYSTEM_CLOCK, attributes
        self._is_root = is_root

    def __enter__(self) -> None:
        self._block = tracing.recorded(self._stage, self._attributes, is_root=self._is_root)
        self._block.__enter__()
        self._begin = self._clock.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        _seconds(self._stage).observe(self._clock.monotonic() - self._begin)
        self._block.__exit__(kind, error, where)


_SYSTEM_CLOCK: Final = SystemClock()


@cache
def _seconds(stage: str) -> Histogram:
    return STAGE_SECONDS.labels(stage)
