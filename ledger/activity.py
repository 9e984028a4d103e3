"""Behaviour features out of the ledger: every gateway folds the same events, so every gateway sees the same seller."""

from collections.abc import Callable
from typing import Final

from ledger.events import (
    Event,
    EventKind,
    to_appeal,
    to_ground_truth,
    to_report,
    to_reversal,
    to_submission,
)
from moderation.activity import Record

_PARSERS: Final[dict[EventKind, Callable[[Event], Record]]] = {
    EventKind.SUBMISSION: to_submission,
    EventKind.GROUND_TRUTH: to_ground_truth,
    EventKind.REPORT: to_report,
    EventKind.APPEAL: to_appeal,
    EventKind.REVERSAL: to_reversal,
}
FOLDED: Final = tuple(_PARSERS)
"""Kinds that say something about a seller's behaviour."""


def to_record(event: Event) -> Record:
    """Return the record of an event of a kind in `FOLDED`.

    Raises:
        PermanentError: if its content is not what its kind must hold.
    """
    return _PARSERS[event.kind](event)
