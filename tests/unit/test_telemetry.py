"""Telemetry: one JSON object a line, and a stage's time in the histogram even when it fails."""

import json
import logging

import pytest
from prometheus_client import REGISTRY

from moderation.clock import SimulatedClock
from moderation.telemetry import JsonLines, span
from tests.unit.test_clock import START


def _record(**extra: object) -> logging.LogRecord:
    record = logging.LogRecord("gate", logging.INFO, "x.py", 1, "decided", (), None)
    vars(record).update(extra)
    return record


def test_log_line_is_json_with_its_fields() -> None:
    line = json.loads(JsonLines("gateway").format(_record(trace_id="t1", latency_ms=2.5)))
    assert line["message"] == "decided"
    assert (line["service"], line["trace_id"], line["latency_ms"]) == ("gateway", "t1", 2.5)


def test_span_counts_a_stage_that_fails() -> None:
    clock = SimulatedClock(START)

    def fail() -> None:
        with span("test_stage", clock):
            clock.advance(2)
            raise KeyError("boom")

    with pytest.raises(KeyError):
        fail()
    total = REGISTRY.get_sample_value("tidegate_stage_seconds_sum", {"stage": "test_stage"})
    assert total == 2.0
