"""Behaviour features out of the ledger: every gateway folds the same events, so every gateway sees the same seller."""

import heapq
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from ledger.events import (
    Event,
    EventKind,
    StoredEvent,
    to_appeal,
    to_ground_truth,
    to_report,
    to_submission,
)
from ledger.ledger import Ledger
from moderation.activity import ActivityState, Record
from moderation.listing import Submission

_PARSERS: Final[dict[EventKind, Callable[[Event], Record]]] = {
    EventKind.SUBMISSION: to_submission,
    EventKind.GROUND_TRUTH: to_ground_truth,
    EventKind.REPORT: to_report,
    EventKind.APPEAL: to_appeal,
}
FOLDED: Final = tuple(_PARSERS)
"""Kinds that say something about a seller's behaviour."""


class BehaviourReader(Protocol):
    """What gives the behaviour of a seller just before an upload."""

    def features(self, submission: Submission) -> tuple[npt.NDArray[np.float32], datetime | None]:
        """Return behaviour_F (NaN where unknown) and the time of the newest event in it."""
        ...


class LedgerBehaviour:
    """Fold the ledger as it grows; an event counts from its own time on, never earlier."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._state = ActivityState()
        self._lock = threading.Lock()
        self._sequence = 0
        self._pending: list[tuple[datetime, int, Event]] = []

    def catch_up(self, now: datetime) -> None:
        """Fold what the ledger holds up to `now`; done once before the first request, as it may take a while."""
        with self._lock:
            self._catch_up(now)

    def features(self, submission: Submission) -> tuple[npt.NDArray[np.float32], datetime | None]:
        """Return the behaviour just before `submission`, with all that the ledger knew by then."""
        with self._lock:
            self._catch_up(submission.submitted_at)
            return self._state.features(submission)

    def _catch_up(self, now: datetime) -> None:
        if self._sequence == 0:
            self._fold_history(now)
        for stored in self._ledger.read(FOLDED, after_sequence=self._sequence):
            self._take(stored, now)
            self._sequence = stored.sequence
        while self._pending and self._pending[0][0] <= now:
            observe(self._state, heapq.heappop(self._pending)[2])

    def _fold_history(self, now: datetime) -> None:
        """Fold a whole ledger in the order of time: an import may have recorded the past out of order."""
        head = self._ledger.last_sequence()
        for stored in self._ledger.read(FOLDED, in_time_order=True):
            if stored.sequence <= head:
                self._take(stored, now)
        self._sequence = head

    def _take(self, stored: StoredEvent, now: datetime) -> None:
        event = stored.event
        if event.occurred_at <= now:
            observe(self._state, event)
        else:
            heapq.heappush(self._pending, (event.occurred_at, stored.sequence, event))


def to_record(event: Event) -> Record:
    """Return the record of an event of a kind in `FOLDED`.

    Raises:
        PermanentError: if its content is not what its kind must hold.
    """
    return _PARSERS[event.kind](event)


def observe(state: ActivityState, event: Event) -> None:
    """Fold one event of a kind in `FOLDED` into `state`."""
    state.observe(to_record(event))
