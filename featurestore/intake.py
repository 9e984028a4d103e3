"""What a feature stream takes in: events are looked at before they count, and refused with a reason."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pydantic import ValidationError

from featurestore.letters import Reason
from ledger.activity import to_record
from ledger.events import Event, EventKind, StoredEvent
from moderation.activity import Record
from moderation.errors import PermanentError
from moderation.listing import Submission

WAIVABLE: Final = (Reason.LATE, Reason.NULL_FLOOD)
"""Reasons that a person may set aside; what cannot be read, or has not come yet, never counts."""

_WATCHED: Final = ("seller_id", "device_fingerprint", "address_fingerprint", "category", "price")
_DETAIL_CHARS: Final = 500


@dataclass(frozen=True)
class Limits:
    """What a stream accepts."""

    max_ahead: timedelta = timedelta(seconds=60)
    """How far the clocks of honest machines may differ."""

    max_behind: timedelta = timedelta(days=1)
    """How long an event may be held up on its way; what is older by more comes from an import."""

    flood_share: float = 0.3
    """Share of missing values above the usual one at which a field counts as flooded."""

    flood_rows: int = 200
    """Newest uploads that a flood is told from."""

    least_rows: int = 50
    """Fewest of them that can show one."""

    usual_rows: int = 500
    """Fewest uploads that say what is usual."""

    memory_rows: int = 5_000
    """Uploads after which what is usual has mostly become what they were."""


Refused = tuple[StoredEvent, Reason, str]
Accepted = tuple[StoredEvent, Record]


class Intake:
    """Looks at events in the order in which they come, and learns how often a field is missing.

    What is usual is learned from refused uploads too, so that a lasting change is taken for granted after a while.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._seen = 0
        self._usual = dict.fromkeys(_WATCHED, 0.0)
        self._newest: deque[tuple[bool, ...]] = deque(maxlen=limits.flood_rows)

    def sort(
        self,
        batch: Sequence[StoredEvent],
        now: datetime,
        *,
        waived: frozenset[Reason] = frozenset(),
    ) -> tuple[list[Accepted], list[Refused]]:
        """Return what counts and what is refused, each in the order of `batch`.

        Args:
            batch: events of `FOLDED`.
            now: of the stream's own clock.
            waived: of `WAIVABLE`, reasons that a person looked into: they refuse nothing.
        """
        accepted: list[Accepted] = []
        refused: list[Refused] = []
        for stored in batch:
            try:
                record = to_record(stored.event)
            except PermanentError as error:
                refused.append((stored, Reason.SCHEMA, what_is_wrong(error)))
                continue
            found = self._wrong(stored.event, record, now)
            if found and found[0] not in waived:
                refused.append((stored, *found))
            else:
                accepted.append((stored, record))
        return accepted, refused

    def learn(self, record: Record) -> None:
        """Take note of what an upload lacks."""
        if not isinstance(record, Submission):
            return
        lacks = tuple(getattr(record.listing, name) is None for name in _WATCHED)
        self._newest.append(lacks)
        self._seen += 1
        rate = 1 / min(self._seen, self._limits.memory_rows)
        for name, is_missing in zip(_WATCHED, lacks, strict=True):
            self._usual[name] += rate * (is_missing - self._usual[name])

    def _wrong(self, event: Event, record: Record, now: datetime) -> tuple[Reason, str] | None:
        if event.occurred_at > now + self._limits.max_ahead:
            ahead = event.occurred_at - now
            return Reason.FUTURE, f"it happens in {ahead}; the clock behind it is ahead"
        behind = event.recorded_at - event.occurred_at
        if event.kind is EventKind.SUBMISSION and behind > self._limits.max_behind:
            return Reason.LATE, f"it was recorded {behind} after it happened"
        self.learn(record)
        return self._flooded(record)

    def _flooded(self, record: Record) -> tuple[Reason, str] | None:
        if not isinstance(record, Submission) or self._seen < self._limits.usual_rows:
            return None
        rows = len(self._newest)
        for place, name in enumerate(_WATCHED):
            if not self._newest[-1][place] or rows < self._limits.least_rows:
                continue
            share, usual = sum(lacks[place] for lacks in self._newest) / rows, self._usual[name]
            if share > usual + self._limits.flood_share:
                return Reason.NULL_FLOOD, (
                    f"{name} is missing in {share:.0%} of the newest {rows} uploads, usually in {usual:.0%}"
                )
        return None


def what_is_wrong(error: PermanentError) -> str:
    """Return which fields are wrong and how, without what they held: a dead letter keeps no one's data."""
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return type(error).__name__
    found = cause.errors(include_input=False, include_url=False, include_context=False)
    wrong = (f"{'.'.join(map(str, one['loc']))}: {one['type']}" for one in found)
    return "; ".join(wrong)[:_DETAIL_CHARS]
