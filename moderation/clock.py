"""The one source of time: event time for data, monotonic time for deadlines. A simulated world brings its own."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What tells the time; passed in, never read from the system directly."""

    def now(self) -> datetime:
        """Return the current instant in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations and deadlines."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the machine's time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds."""
        return time.monotonic()


class SimulatedClock:
    """A clock that stands still until it is moved: days pass in minutes."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a simulated clock starts at an instant with a time zone")
        self._start = self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """Return the simulated instant in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Return the simulated seconds since the start."""
        return (self._now - self._start).total_seconds()

    def move_to(self, instant: datetime) -> None:
        """Move forward to `instant`; going back is refused."""
        if instant < self._now:
            raise ValueError(f"time only moves forward: {instant} is before {self._now}")
        self._now = instant.astimezone(UTC)

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds`."""
        self.move_to(self._now + timedelta(seconds=seconds))
