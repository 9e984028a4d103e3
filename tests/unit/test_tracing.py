"""Traces: sent to a real collector, in the caller's trace, with nothing of a listing; and never in anybody's way."""

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from moderation import tracing
from moderation.clock import SystemClock
from moderation.telemetry import JsonLines, past_span, request_span, span
from moderation.tracing import Outbox, export
from tests.otlp_collector import Collector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def outbox(collector: Collector) -> Iterator[Outbox]:
    outbox = export("test", collector.url)
    yield outbox
    outbox.close()


def _count(outcome: str) -> float:
    return REGISTRY.get_sample_value("tidegate_trace_spans_total", {"outcome": outcome}) or 0.0


def test_spans_nest_below_the_callers_when_it_has_a_trace(
    collector: Collector, outbox: Outbox
) -> None:
    with (
        request_span("outer", f"00-{TRACE}-{PARENT}-01", num_images=2),
        span("inner", outcome="ok"),
    ):
        assert tracing.trace_id() == TRACE
    inner, outer = collector.wait_for(lambda spans: len(spans) == 2)
    assert (outer.name, outer.trace_id, outer.parent_id) == ("outer", TRACE, PARENT)
    assert (inner.name, inner.trace_id, inner.parent_id) == ("inner", TRACE, outer.span_id)
    assert outer.service == "tidegate-test"
    assert outer.attributes == {"tidegate.num_images": "2"}
    assert inner.attributes == {"tidegate.outcome": "ok"}


def test_a_trace_begins_when_the_caller_has_none(collector: Collector, outbox: Outbox) -> None:
    with request_span("alone", "00-nonsense"):
        own = tracing.trace_id()
    [seen] = collector.wait_for(lambda spans: len(spans) == 1)
    assert (seen.trace_id, seen.parent_id) == (own, "")


def test_nothing_is_sent_when_the_caller_does_not_sample(
    collector: Collector, outbox: Outbox
) -> None:
    with request_span("quiet", f"00-{TRACE}-{PARENT}-00"):
        assert tracing.trace_id() == TRACE
        assert (tracing.traceparent() or "").endswith("-00")
    with request_span("loud", f"00-{TRACE}-{PARENT}-01"):
        pass
    assert [seen.name for seen in collector.wait_for(bool)] == ["loud"]


def test_work_outside_of_a_request_is_not_sent(collector: Collector, outbox: Outbox) -> None:
    with span("warm_up"):
        pass
    with request_span("request", None):
        pass
    assert [seen.name for seen in collector.wait_for(bool)] == ["request"]


def test_what_another_process_did_is_told_with_its_own_times(
    collector: Collector, outbox: Outbox
) -> None:
    begin_s = SystemClock().monotonic() - 2.0
    past_span("elsewhere", begin_s, 0.25)  # outside of any request
    with request_span("outer", f"00-{TRACE}-{PARENT}-01"):
        past_span("elsewhere", begin_s, 0.25)
    inner, outer = collector.wait_for(lambda spans: len(spans) == 2)
    assert (inner.name, inner.trace_id, inner.parent_id) == ("elsewhere", TRACE, outer.span_id)
    found = REGISTRY.get_sample_value("tidegate_stage_seconds_sum", {"stage": "elsewhere"})
    assert found == 0.5


def test_an_error_is_told_by_its_kind_alone(collector: Collector, outbox: Outbox) -> None:
    def fail() -> None:
        with request_span("fails", None, status="Ring me at 0123"):
            raise ValueError("the title was: secret")

    with pytest.raises(ValueError, match="secret"):
        fail()
    [seen] = collector.wait_for(bool)
    assert (seen.is_error, seen.error) == (True, "ValueError")
    assert seen.attributes == {"tidegate.status": "?"}, "free text is no fact of a closed set"


def test_an_attribute_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="title"):
        tracing.note(title="Blue bicycle")


def test_a_dead_collector_costs_nobody_time_and_is_counted(collector: Collector) -> None:
    collector.stop()
    outbox, lost, clock = export("test", collector.url), _count("lost"), SystemClock()
    begin = clock.monotonic()
    for _ in range(200):
        with request_span("request", None):
            pass
    assert clock.monotonic() - begin < 5.0
    outbox.close()
    assert _count("lost") == lost + 200


class _Stuck:
    """An exporter that does not come back until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def export(self, spans: object) -> None:
        self.let_go.wait(10)

    def shutdown(self) -> None:
        pass


def test_spans_beyond_the_queue_are_dropped_and_counted() -> None:
    from opentelemetry.sdk.trace import TracerProvider

    stuck, dropped = _Stuck(), _count("dropped")
    outbox = Outbox(stuck, num_waiting=10)  # type: ignore[arg-type]  # of its shape
    provider = TracerProvider()
    provider.add_span_processor(outbox)  # type: ignore[arg-type]  # of its shape
    for _ in range(600):  # more than one batch holds beside the queue
        provider.get_tracer("test").start_span("one").end()
    assert _count("dropped") - dropped > 50
    stuck.let_go.set()
    provider.shutdown()


def test_without_a_collector_the_trace_goes_on_as_it_came() -> None:
    came = f"00-{TRACE}-{PARENT}-01"
    with request_span("request", came), span("stage"):
        assert tracing.traceparent() == came
    with request_span("request", None), span("stage"):
        own = tracing.traceparent()
        assert own is not None
        assert own.endswith("-00"), "nobody recorded it"
        assert own[3:35] == tracing.trace_id()
    assert tracing.trace_id() is None
    assert tracing.traceparent() is None


def test_a_log_line_carries_the_trace_that_it_was_written_in() -> None:
    record = logging.LogRecord("gate", logging.INFO, "x.py", 1, "decided", (), None)
    with request_span("request", f"00-{TRACE}-{PARENT}-01"):
        assert json.loads(JsonLines("gateway").format(record))["trace_id"] == TRACE
    assert "trace_id" not in json.loads(JsonLines("gateway").format(record))
