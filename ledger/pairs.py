"""What two releases said of the same upload: the one that answered, and its shadow."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from ledger.events import EventKind, to_shadow
from ledger.ledger import Ledger
from moderation.decision import Attempt


@dataclass(frozen=True)
class Pair:
    """One upload, asked of two releases."""

    trace_id: str
    submission_id: str
    answer: Attempt
    """What decided, or failed to."""

    shadow: Attempt


def pairs(
    ledger: Ledger, *, since: datetime | None = None, until: datetime | None = None
) -> Iterator[Pair]:
    """Yield every answer with its shadow's, joined on the trace id, in the order in which the shadows were recorded.

    Uploads of erased sellers are passed over. Memory stays constant.

    Args:
        ledger: holds both.
        since: only shadows that answered later.
        until: only shadows that had answered by then, inclusive.
    """
    for stored in ledger.read((EventKind.SHADOW,), since=since, until=until):
        shadow = to_shadow(stored.event)
        decision = ledger.get_decision(shadow.trace_id)
        if decision is None or decision.submission_id != shadow.submission_id:
            continue
        answer = next((one for one in decision.attempts if one.role == "answer"), None)
        if answer is not None:
            yield Pair(shadow.trace_id, shadow.submission_id, answer, shadow.attempt)
