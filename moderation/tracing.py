"""Traces as OpenTelemetry has them: which trace this is, and spans sent to a collector when one is named.

Without a collector nothing is recorded: a caller's trace context is handed on as it came, and a request without one
gets an id of its own. With one, finished spans wait in a bounded queue that a thread empties; nobody waits for it.
"""

import logging
import queue
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import Counter

from moderation.clock import SystemClock

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

_LOG = logging.getLogger(__name__)

TRACEPARENT: Final = "traceparent"
"""The header of W3C Trace Context, also the key of gRPC metadata."""

SPANS: Final = Counter(
    "tidegate_trace_spans_total",
    "Spans by what became of them: exported, dropped as the queue was full, or lost as the collector failed.",
    ["outcome"],
)

NUM_WAITING: Final = 4_096
"""Spans in memory at most; a busy gateway makes some 5,000 a second."""

_BATCH: Final = 512
_PERIOD_S: Final = 0.2
_TIMEOUT_S: Final = 2.0

Attribute = str | int | float | bool

ATTRIBUTES: Final = frozenset(
    {
        "arm",
        "decision_trace_id",
        "num_images",
        "num_items",
        "outcome",
        "policy",
        "release",
        "status",
        "tier",
    }
)
"""What a span may say beside its name and times: facts from closed sets and random ids, nothing of a listing."""

_WORD: Final = re.compile(r"[\w.:\-]{1,64}", re.ASCII)
_CLOCK: Final = SystemClock()
_W3C: Final = TraceContextTextMapPropagator()


class _Exporting:
    tracer: trace.Tracer | None = None


def attributes_of(facts: Mapping[str, Attribute | None]) -> dict[str, Attribute]:
    """Return the attributes of a span; what is None is left out, and a string that is no single word reads "?".

    Raises:
        ValueError: if a name is not in the closed set.
    """
    if strangers := facts.keys() - ATTRIBUTES:
        raise ValueError(f"a span may not say {sorted(strangers)}; known are {sorted(ATTRIBUTES)}")
    return {f"tidegate.{name}": _said(fact) for name, fact in facts.items() if fact is not None}


@contextmanager
def continued(traceparent: str | None) -> Iterator[None]:
    """Put what is done in the block into the caller's trace, or into one of its own where there is no valid one.

    Args:
        traceparent: as the caller sent it; its sampled flag holds for everything below.
    """
    context = _W3C.extract({TRACEPARENT: traceparent or ""}, contexts.Context())
    if not _of(context).is_valid and _Exporting.tracer is None:
        own = trace.SpanContext(secrets.randbits(128) or 1, secrets.randbits(64) or 1, False)
        context = trace.set_span_in_context(trace.NonRecordingSpan(own), context)
    token = contexts.attach(context)
    try:
        yield
    finally:
        contexts.detach(token)


def trace_id() -> str | None:
    """Return the trace that the caller of this function is in, 32 hexadecimal digits; None outside of any."""
    current = _of(None)
    return trace.format_trace_id(current.trace_id) if current.is_valid else None


def traceparent() -> str | None:
    """Return the header that puts another process's work below the current span; None outside of any trace."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(TRACEPARENT)


def recorded(
    name: str, attributes: Mapping[str, Attribute | None], *, is_root: bool = False
) -> AbstractContextManager[Any]:
    """Return the block of one span below the current one.

    Args:
        name: of the span, from a closed set.
        attributes: facts from closed sets.
        is_root: whether it may begin a trace; work outside of any request, such as a warm-up, is not recorded.
    """
    tracer = _Exporting.tracer
    if tracer is None or not (is_root or _of(None).is_valid):
        return _NOTHING
    return _recorded(tracer, name, attributes_of(attributes))


def record_past(name: str, ago_s: float, seconds: float) -> None:
    """Record a span below the current one that another process has ended.

    Args:
        name: of the span, from a closed set.
        ago_s: seconds since it began.
        seconds: how long it took.
    """
    tracer = _Exporting.tracer
    if tracer is None or not _of(None).is_valid:
        return
    begin_ns = int((_CLOCK.now().timestamp() - ago_s) * 1e9)
    tracer.start_span(name, start_time=begin_ns).end(begin_ns + int(seconds * 1e9))


def note(**facts: Attribute | None) -> None:
    """Add attributes from closed sets to the current span; nothing where none is recorded."""
    attributes = attributes_of(facts)
    trace.get_current_span().set_attributes(attributes)


_NOTHING: Final = nullcontext()


@contextmanager
def _recorded(
    tracer: trace.Tracer, name: str, attributes: Mapping[str, Attribute]
) -> Iterator[None]:
    """Record a span; of an error only its kind, as its message may quote a listing."""
    with tracer.start_as_current_span(
        name, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def export(service: str, endpoint: str, *, share: float = 1.0) -> "Outbox":
    """Send this process's spans to a collector from now on; once per process.

    Args:
        service: name of the process in traces.
        endpoint: URL of OTLP/HTTP with its path, such as `http://collector:4318/v1/traces`.
        share: of the traces that begin here, from 0 to 1; a caller's sampled flag goes before it.

    Returns:
        what holds the spans; `close()` stops the export.
    """
    import requests
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

    # The exporter tells of every attempt that fails; here they are counted, and a change is told once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False
    outbox = Outbox(OTLPSpanExporter(endpoint, timeout=_TIMEOUT_S, session=session))
    resource = Resource({"service.name": f"tidegate-{service}"})
    provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)), resource=resource)
    provider.add_span_processor(outbox)  # type: ignore[arg-type]  # of its shape, not of its class
    _Exporting.tracer = provider.get_tracer("tidegate")
    outbox.provider = provider
    return outbox


class Outbox:
    """Finished spans on their way to the collector: a bounded queue, and a thread that empties it.

    The SDK's own batch processor says nothing countable of what it drops.

    Args:
        exporter: sends spans, and may block or fail.
        num_waiting: spans in the queue at most; more are dropped and counted.
    """

    def __init__(self, exporter: "SpanExporter", num_waiting: int = NUM_WAITING) -> None:
        self._exporter = exporter
        self._waiting: queue.Queue[ReadableSpan] = queue.Queue(num_waiting)
        self._stop = threading.Event()
        self._is_heard = True
        self.provider: Any = None
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Take note of nothing: a span is sent when it has ended."""

    def _on_ending(self, span: Any) -> None:
        """Take note of nothing; the SDK calls it before every end."""

    def on_end(self, span: "ReadableSpan") -> None:
        """Queue a finished span that is sampled; never waits."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        try:
            self._waiting.put_nowait(span)
        except queue.Full:
            SPANS.labels("dropped").inc()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Say that nothing is flushed on demand: the queue empties by itself."""
        return False

    def shutdown(self) -> None:
        """Send what waits, for a bounded time, and stop."""
        self._stop.set()
        self._thread.join(2 * _TIMEOUT_S)
        self._exporter.shutdown()

    def close(self) -> None:
        """Record no more spans, send what waits, and stop."""
        _Exporting.tracer = None
        if self.provider is not None:
            self.provider.shutdown()
        else:
            self.shutdown()

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self._send_all()
        self._send_all()

    def _send_all(self) -> None:
        while spans := self._batch():
            if not self._send(spans) and self._stop.is_set():
                return

    def _batch(self) -> list["ReadableSpan"]:
        spans: list[ReadableSpan] = []
        while len(spans) < _BATCH:
            try:
                spans.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return spans

    def _send(self, spans: Sequence["ReadableSpan"]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        try:
            is_heard = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:
            # The edge of the export's thread: a bug in it loses spans, which are counted, and no request.
            _LOG.exception("spans could not be sent")
            is_heard = False
        SPANS.labels("exported" if is_heard else "lost").inc(len(spans))
        if is_heard != self._is_heard:
            self._is_heard = is_heard
            _LOG.warning("the trace collector changed its state", extra={"answers": is_heard})
        return is_heard


def _of(context: contexts.Context | None) -> trace.SpanContext:
    return trace.get_current_span(context).get_span_context()


def _said(fact: Attribute) -> Attribute:
    if not isinstance(fact, str):
        return fact
    return fact if _WORD.fullmatch(fact) else "?"
