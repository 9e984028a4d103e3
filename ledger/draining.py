"""The way back from the spill: its events go into the ledger and its blobs into the store, in order, each exactly once.

An id names an event for good: a file that was moved half before a crash is moved once more, and changes nothing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from ledger.frames import Blob, Frame
from ledger.ledger import SqliteLedger
from ledger.sealing import Row, event_of, to_row
from ledger.spill import Spill
from ledger.store import ContentStore
from ledger.writing import Moved

# Frames of one transaction: while it lasts nobody else writes to the ledger.
_FRAMES: Final = 64

RETRACED: Final = "retraced"
"""Moved under a fresh trace id, as another decision carries the one that it had."""


class Drainer:
    """Moves what is spilled as soon as the ledger and the store take it again.

    Args:
        spill: what is moved.
        ledger: takes the events.
        store: takes the blobs.
        new_id: makes trace ids.
    """

    def __init__(
        self,
        spill: Spill,
        ledger: SqliteLedger,
        store: ContentStore,
        new_id: Callable[[], str],
    ) -> None:
        self._spill, self._ledger, self._store = spill, ledger, store
        self._ring, self._new_id = spill.ring, new_id

    def drain(self, count: Callable[[str, int], None]) -> None:
        """Move everything that waits, as far as possible.

        Args:
            count: told what became of frames: a `Moved` or `RETRACED`, and how many.

        Raises:
            TemporaryError: if the ledger, the store or the spill's disk stops it; what was moved stays so.
            KeysLost: if a key is neither there nor destroyed.
        """
        for segment in self._spill.waiting():
            frames = [one for one in segment.scan().frames if one.offset >= segment.drained]
            for begin in range(0, len(frames), _FRAMES):
                some = frames[begin : begin + _FRAMES]
                outcomes = self._move(some)
                segment.conflicts += [
                    frame.data for frame, outcome in outcomes if outcome == Moved.CONFLICT
                ]
                segment.drained = some[-1].offset + len(some[-1].data)
                self._spill.forget(some)
                for outcome, number in Counter(outcome for _, outcome in outcomes).items():
                    count(outcome, number)
            self._spill.drop(segment)

    def _move(self, frames: Sequence[Frame]) -> list[tuple[Frame, str]]:
        entries = [(frame, frame.entry()) for frame in frames]
        outcomes: list[tuple[Frame, str]] = []
        batches: list[tuple[Frame, tuple[Row, ...]]] = []
        for frame, entry in entries:
            if isinstance(entry, Blob):
                is_kept = self._store.put_sealed(entry.digest, entry.key_id, entry.data)
                outcomes.append((frame, Moved.NEW if is_kept else Moved.ERASED))
            else:
                batches.append((frame, entry))
        if batches:
            moved = self._ledger.move_each([rows for _, rows in batches])
            for (frame, rows), outcome in zip(batches, moved, strict=True):
                is_taken = outcome is Moved.TRACE_TAKEN
                outcomes.append((frame, self._retrace(rows) if is_taken else outcome))
        return outcomes

    def _retrace(self, rows: Sequence[Row]) -> str:
        """Move rows under a fresh trace id: one trace of a caller may hold many uploads."""
        keys = self._ring.live({row[3] for row in rows if row[3] is not None})
        if any(row[3] is not None and row[3] not in keys for row in rows):  # erased just now
            return self._ledger.move_each([rows])[0]
        trace_id = self._new_id()
        fresh = []
        for row in rows:
            event = event_of(row, self._ring)
            if "trace_id" in event.payload:
                event = replace(event, payload=event.payload | {"trace_id": trace_id})
            key = None if row[3] is None else keys[row[3]]
            fresh.append(to_row(event, event.payload_json(), key))
        (outcome,) = self._ledger.move_each([fresh])
        return RETRACED if outcome is Moved.NEW else outcome
