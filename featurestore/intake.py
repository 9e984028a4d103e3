"""What a feature stream takes in: events are looked at before they count, and refused with a reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from pydantic import BaseModel

from featurestore.letters import Reason
from ledger.events import (
    Event,
    EventKind,
    StoredEvent,
    to_appeal,
    to_ground_truth,
    to_report,
    to_submission,
)
from moderation.errors import PermanentError
from moderation.listing import Submission

_PARSERS: Final[dict[EventKind, Callable[[Event], BaseModel]]] = {
    EventKind.SUBMISSION: to_submission,
    EventKind.GROUND_TRUTH: to_ground_truth,
    EventKind.REPORT: to_report,
    EventKind.APPEAL: to_appeal,
}
KINDS: Final = tuple(_PARSERS)
"""Kinds of event that say something about a seller."""

_WATCHED: Final = ("seller_id", "device_fingerprint", "address_fingerprint", "category", "price")
_DETAIL_CHARS: Final = 500


@dataclass(frozen=True)
class Limits:
    """What a stream accepts."""

    max_ahead: timedelta = timedelta(seconds=60)
    """How far the clocks of honest machines may differ."""

    max_behind: timedelta = timedelta(days=1)
    """How long an event may be held up on its way."""

    flood_share: float = 0.3
    """Share of missing values above the usual one at which a field counts as flooded."""

    flood_rows: int = 50
    """Fewest uploads of one batch that can show a flood."""

    usual_rows: int = 500
    """Fewest uploads that say what is usual."""


Refused = tuple[StoredEvent, Reason, str]
Accepted = tuple[StoredEvent, BaseModel]


@dataclass
class Intake:
    """Looks at events batch by batch, and learns how often a field is missing."""

    limits: Limits = field(default_factory=Limits)
    _seen: int = 0
    _missing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_WATCHED, 0))

    def sort(
        self,
        batch: Sequence[StoredEvent],
        now: datetime,
        *,
        waived: frozenset[Reason] = frozenset(),
    ) -> tuple[list[Accepted], list[Refused]]:
        """Return what counts and what is refused, each in the order of `batch`.

        Args:
            batch: events of `KINDS`.
            now: of the stream's own clock.
            waived: reasons that a person looked into: they refuse nothing. What cannot be read never counts.
        """
        accepted: list[Accepted] = []
        refused: list[Refused] = []
        for stored in batch:
            try:
                record = _PARSERS[stored.event.kind](stored.event)
            except PermanentError as error:
                refused.append((stored, Reason.SCHEMA, str(error)[:_DETAIL_CHARS]))
                continue
            found = self._wrong_time(stored.event, now)
            if found and found[0] not in waived:
                refused.append((stored, *found))
            else:
                accepted.append((stored, record))
        flooded = {} if Reason.NULL_FLOOD in waived else self._floods(accepted)
        kept: list[Accepted] = []
        for stored, record in accepted:
            lacking = [name for name in flooded if _lacks(record, name)]
            if lacking:
                name = lacking[0]
                refused.append((stored, Reason.NULL_FLOOD, flooded[name]))
            else:
                kept.append((stored, record))
        self._learn(kept)
        return kept, sorted(refused, key=lambda one: one[0].sequence)

    def _wrong_time(self, event: Event, now: datetime) -> tuple[Reason, str] | None:
        if event.occurred_at > now + self.limits.max_ahead:
            ahead = event.occurred_at - now
            return Reason.FUTURE, f"it happens in {ahead}; the clock behind it is ahead"
        behind = event.recorded_at - event.occurred_at
        if event.kind is EventKind.SUBMISSION and behind > self.limits.max_behind:
            return Reason.LATE, f"it was recorded {behind} after it happened"
        return None

    def _floods(self, accepted: Sequence[Accepted]) -> dict[str, str]:
        """Return the flooded fields, each with what was seen."""
        uploads = [record for _, record in accepted if isinstance(record, Submission)]
        if self._seen < self.limits.usual_rows or len(uploads) < self.limits.flood_rows:
            return {}
        found = {}
        for name in _WATCHED:
            share = sum(_lacks(one, name) for one in uploads) / len(uploads)
            usual = self._missing[name] / self._seen
            if share > usual + self.limits.flood_share:
                found[name] = (
                    f"{name} is missing in {share:.0%} of {len(uploads)} uploads, usually in {usual:.0%}"
                )
        return found

    def _learn(self, kept: Sequence[Accepted]) -> None:
        for _, record in kept:
            if isinstance(record, Submission):
                self._seen += 1
                for name in _WATCHED:
                    self._missing[name] += _lacks(record, name)


def _lacks(record: BaseModel, name: str) -> bool:
    return isinstance(record, Submission) and getattr(record.listing, name) is None
