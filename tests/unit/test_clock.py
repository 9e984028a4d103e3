"""Clocks: simulated time stands still, moves forward only, and knows its zone."""

from datetime import UTC, datetime, timedelta

import pytest

from moderation.clock import SimulatedClock, SystemClock

START = datetime(2026, 3, 1, tzinfo=UTC)


def test_simulated_clock_moves_only_when_moved() -> None:
    clock = SimulatedClock(START)
    assert (clock.now(), clock.monotonic()) == (START, 0.0)
    clock.advance(90)
    assert (clock.now(), clock.monotonic()) == (START + timedelta(seconds=90), 90.0)


def test_simulated_clock_refuses_to_go_back() -> None:
    clock = SimulatedClock(START)
    with pytest.raises(ValueError, match="only moves forward"):
        clock.advance(-1)


def test_simulated_clock_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="time zone"):
        SimulatedClock(datetime(2026, 3, 1))


def test_system_clock_tells_utc_and_never_goes_back() -> None:
    clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert clock.monotonic() <= clock.monotonic()
