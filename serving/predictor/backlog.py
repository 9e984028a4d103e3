"""Lines of waiting listings, by priority: who is next, and how many fit into one batch. Pure: no threads, no clock.

Strict priorities with one exception, so that nothing waits for ever: after `fair_every` listings that went ahead of
those in lower lines, the oldest of them goes. Within a line the order is that of arrival.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

from moderation.scoring import PreparedItem, Scores, ScoringItem
from serving.predictor.latency import LatencyModel

# What a batch may always hold: an estimate that is wrong costs no more than a part of this many fixed times.
_LEAST_FULL: Final = 4


class Priority(IntEnum):
    """Why a listing is scored; the lower goes first."""

    UPLOAD = 0
    RESCAN = 1
    BACKFILL = 2


@dataclass(eq=False)
class Entry:
    """One listing of a request on its way through the queue."""

    request: Any
    """Whose listing it is; the queue tells it the outcome."""

    place: int
    """Which of the request's listings it is."""

    item: ScoringItem
    priority: Priority
    arrived_s: float
    deadline_s: float = math.inf
    num_bytes: int = 0
    passes: int = 1
    """Passes through a tower: one for each image, one for the text."""

    parts: list[PreparedItem] = field(default_factory=list, repr=False)
    """What was prepared of it so far."""

    prepare_s: float = 0.0
    """Seconds that they took."""

    is_preparing: bool = False
    """Whether its next part is being prepared."""

    prepared: PreparedItem | None = field(default=None, repr=False)
    outcome: tuple[Scores, int] | None = field(default=None, repr=False)


class Backlog:
    """The lines of one stage.

    Args:
        fair_every: listings that may go ahead of a lower line before its first goes.
    """

    def __init__(self, fair_every: int) -> None:
        self._fair_every = fair_every
        # Dictionaries keep the order of arrival and let any entry leave at once.
        self._lines = tuple(OrderedDict[Entry, None]() for _ in Priority)
        self._passed_over = 0

    @property
    def is_lower_due(self) -> bool:
        """Whether so many went ahead of a lower line that its first goes now."""
        return self._passed_over >= self._fair_every

    def __len__(self) -> int:
        return sum(map(len, self._lines))

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._lines[entry.priority]

    def __iter__(self) -> Iterator[Entry]:
        for line in self._lines:
            yield from line

    def add(self, entry: Entry) -> None:
        """Put an entry at the end of its line."""
        self._lines[entry.priority][entry] = None

    def put_back(self, entry: Entry) -> None:
        """Put an entry at the head of its line."""
        line = self._lines[entry.priority]
        line[entry] = None
        line.move_to_end(entry, last=False)

    def remove(self, entry: Entry) -> None:
        """Take an entry out, wherever it stands."""
        del self._lines[entry.priority][entry]

    def count(self, priority: Priority) -> int:
        """Return how many stand in one line."""
        return len(self._lines[priority])

    def first(self, among: Collection[Priority] = tuple(Priority)) -> Entry | None:
        """Return who is next of some lines, and leave it there."""
        waiting = [self._lines[priority] for priority in sorted(among) if self._lines[priority]]
        if not waiting:
            return None
        heads = [next(iter(line)) for line in waiting]
        if self.is_lower_due and len(heads) > 1:
            return min(heads[1:], key=lambda entry: entry.arrived_s)
        return heads[0]

    def take(self, among: Collection[Priority] = tuple(Priority)) -> Entry | None:
        """Return who is next of some lines, out of its line."""
        entry = self.first(among)
        if entry is None:
            return None
        self.remove(entry)
        is_passing = any(self._lines[entry.priority + 1 :])
        is_higher_left = any(self._lines[: entry.priority])
        self._passed_over = 0 if is_higher_left or not is_passing else self._passed_over + 1
        return entry

    def take_batch(
        self, now_s: float, max_batch: int, latency: LatencyModel, behind_s: float = math.inf
    ) -> tuple[list[Entry], list[Entry]]:
        """Return the next batch, and those that can no longer be answered in time.

        The batch grows while its expected time leaves everyone in it within the deadline: a listing that would make
        another late, or be late in such company, waits for the next batch. So does one that would make the batch longer
        and nothing cheaper, as where a processor takes the same time for each: everyone in a batch waits for all of it.

        Nothing ends a batch that runs. So those below uploads take no more than `behind_s` of one, unless one of them
        is all of it, and none goes along with uploads where that only makes them wait.
        """
        batch: list[Entry] = []
        late: list[Entry] = []
        passes, lower_passes, earliest_s = 0, 0, math.inf
        while len(batch) < max_batch and (entry := self.first()) is not None:
            is_lower = entry.priority > Priority.UPLOAD
            is_along = is_lower and bool(batch) and batch[0].priority is Priority.UPLOAD
            least = 1 if is_along else _LEAST_FULL
            if len(batch) >= least and latency.is_spread(passes):
                break
            if is_lower and batch and latency.seconds(lower_passes + entry.passes) > behind_s:
                break
            if now_s + latency.bound_s(entry.passes) > entry.deadline_s:
                self.remove(entry)
                late.append(entry)
                continue
            deadline_s = min(earliest_s, entry.deadline_s)
            if batch and now_s + latency.bound_s(passes + entry.passes) > deadline_s:
                break
            self.take()
            batch.append(entry)
            passes, earliest_s = passes + entry.passes, deadline_s
            lower_passes += entry.passes if is_lower else 0
        return batch, late
