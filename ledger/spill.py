"""The spill: events and blobs that the ledger or the content store could not take, safe on another disk until they can.

Everything in it is sealed exactly as the ledger and the store seal it: a key that is destroyed erases the spill, too.
Several processes may share a folder; each writes files of its own, and takes over those of processes that died.
"""

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ledger.events import Event
from ledger.frames import SALT_BYTES, Blob, Entry, Frame, decode, encode, framed, scan
from ledger.keys import KeyRing, KeysUnavailable, SealBroken
from ledger.sealing import Row, event_of, keys_for, to_row
from ledger.segments import (
    DAMAGED,
    QUARANTINE,
    Segment,
    SpillUnavailable,
    adopt,
    keep_aside,
    new_segment,
)
from ledger.writing import LedgerConflict, TraceTaken
from moderation.files import reason_of

# A file is closed and another begun from this size on, so that one is read at once when it is moved away.
_SEGMENT_BYTES: Final = 32 * 2**20

# An upload with its pictures may need as much.
_ROOM_BYTES: Final = 2**20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row lies, and what tells its content from another's."""

    path: Path
    offset: int
    size: int
    number: int
    key_id: str | None
    digest: bytes


@dataclass(frozen=True)
class SpillState:
    """How much is in a spill."""

    events: int
    blobs: int
    num_bytes: int
    quarantined: int
    """Frames that the ledger contradicts, or that the disk has changed: kept beside the spill for a person."""


class Spill:
    """What one process has spilled, or taken over; threads may share it.

    Args:
        folder: made when the first event comes.
        ring: the keys of the home.
        max_bytes: of everything that this process holds.

    Raises:
        KeysLost: if something in it is sealed under a key that is neither there nor destroyed.
        SpillUnavailable: if the folder or a file in it cannot be read now.
    """

    def __init__(self, folder: Path, ring: KeyRing, max_bytes: int) -> None:
        self._folder, self.ring, self._max_bytes = folder, ring, max_bytes
        self._lock = threading.RLock()
        self._segments: list[Segment] = []
        self._current: Segment | None = None
        self._events: dict[str, _Place] = {}
        self._traces: dict[str, str] = {}
        self._submissions: Counter[str] = Counter()
        self._blobs: Counter[str] = Counter()
        self._copies: Counter[tuple[str, str | None]] = Counter()
        self._quarantined = sum(map(_num_frames, _aside(folder)))
        self.adopt()

    def seal(self, events: Iterable[Event]) -> tuple[Row, ...]:
        """Return events as rows, sealed under the keys of their sellers.

        Raises:
            KeysUnavailable: if a key cannot be read or made now.
        """
        events = list(events)
        if any(event.seller_id is not None for event in events):
            self._refuse_without_keys()
        keys = keys_for(events, self.ring)
        return tuple(to_row(event, event.payload_json(), keys[event.seller_id]) for event in events)

    def seal_blob(self, data: bytes, seller_id: str | None) -> Blob:
        """Return bytes as the content store would keep them for a seller.

        Raises:
            KeysUnavailable: if the key cannot be read or made now.
        """
        digest = hashlib.sha256(data).hexdigest()
        if seller_id is None:
            return Blob(digest, None, data)
        self._refuse_without_keys()
        key = self.ring.of([seller_id])[seller_id]
        return Blob(digest, key.key_id, key.seal(data, digest.encode()))

    def write_each(self, entries: Sequence[Entry]) -> list[int | Exception]:
        """Keep entries durably, each whole or not at all.

        Returns:
            for each how many of its rows or blobs were new, or the LedgerConflict, TraceTaken or SpillUnavailable
            (no room within the limit) that is its alone.

        Raises:
            SpillUnavailable: if nothing can be written; nothing was kept.
        """
        with self._lock:
            kept: list[tuple[Entry, bytes]] = []
            taken, room = dict[str, _Place](), self._max_bytes - self.num_bytes
            traces = dict[str, str]()
            outcomes: list[int | Exception] = []
            for entry in entries:
                try:
                    number = self._num_new(entry, taken, traces)
                    body = encode(entry) if number else b""
                    self._check_room(len(body), room)
                except (LedgerConflict, TraceTaken, SpillUnavailable) as error:
                    outcomes.append(error)
                    continue
                outcomes.append(number)
                room -= len(body)
                if number:
                    kept.append((entry, body))
                    _stage(entry, taken, traces)
            if kept:
                self._write(kept)
        return outcomes

    def get_event(self, event_id: str) -> Event | None:
        """Return a spilled event; None where there is none, or its seller is erased, or it was moved just now.

        Raises:
            SpillUnavailable: if its file cannot be read now.
        """
        place = self._events.get(event_id)
        if place is None or not self._is_live(place.key_id):
            return None
        try:
            with place.path.open("rb") as file:
                file.seek(place.offset)
                entry = decode(file.read(place.size))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SpillUnavailable(reason_of(error), file=place.path) from error
        assert isinstance(entry, tuple)
        try:
            return event_of(entry[place.number], self.ring)
        except SealBroken:
            if self._is_live(place.key_id):
                raise
            return None

    def get_decision_of_trace(self, trace_id: str) -> Event | None:
        """Return the spilled decision of a trace, or None."""
        event_id = self._traces.get(trace_id)
        return self.get_event(event_id) if event_id else None

    def is_erased(self, event_id: str) -> bool:
        """Return whether an event is there, of a seller that was erased."""
        place = self._events.get(event_id)
        return place is not None and not self._is_live(place.key_id)

    def holds(self, submission_id: str) -> bool:
        """Return whether anything about a submission waits here: what follows has to wait behind it."""
        return submission_id in self._submissions

    def holds_blob(self, digest: str) -> bool:
        """Return whether bytes wait here."""
        return digest in self._blobs

    def holds_copy(self, blob: Blob) -> bool:
        """Return whether the same bytes wait here under the same key."""
        return (blob.digest, blob.key_id) in self._copies

    def is_waiting(self) -> bool:
        """Return whether anything waits here."""
        return bool(self._events or self._blobs)

    def has_room(self) -> bool:
        """Return whether the limit and the disk leave room for an upload."""
        folder = self._folder
        while not folder.is_dir():
            folder = folder.parent
        try:
            facts = os.statvfs(folder)
        except OSError:
            return False
        is_writable = not facts.f_flag & os.ST_RDONLY
        free = min(facts.f_bavail * facts.f_frsize, self._max_bytes - self.num_bytes)
        return is_writable and free >= _ROOM_BYTES

    @property
    def num_bytes(self) -> int:
        """Bytes of the files that this process holds."""
        return sum(segment.size for segment in list(self._segments))

    def state(self) -> SpillState:
        """Return how much there is."""
        return SpillState(len(self._events), len(self._copies), self.num_bytes, self._quarantined)

    def adopt(self) -> None:
        """Take over what dead processes left.

        Raises:
            KeysLost: as the constructor does.
            SpillUnavailable: if the folder or a file in it cannot be read now.
        """
        with self._lock:
            for segment in adopt(self._folder, [one.path for one in self._segments]):
                try:
                    found = segment.scan()
                    entries = [(frame, frame.entry()) for frame in found.frames]
                    keys = {key_id for _, entry in entries for key_id in _key_ids(entry)}
                    self.ring.live(keys)
                    keep_aside(segment, DAMAGED, found.damaged)
                except BaseException:
                    segment.close()
                    raise
                self._quarantined += bool(found.damaged)
                for frame, entry in entries:
                    self._index(segment.path, frame.offset, len(frame.data), entry)
                self._segments.append(segment)
            self._segments.sort(key=lambda one: one.path.name)

    def waiting(self) -> list[Segment]:
        """Return everything that is to be moved, oldest first; what comes from now on goes into another file."""
        with self._lock:
            self.adopt()
            self._current = None
            return list(self._segments)

    def forget(self, frames: Iterable[Frame]) -> None:
        """Take note that frames were moved: they are found elsewhere now."""
        with self._lock:
            for frame in frames:
                self._unindex(frame.entry())

    def drop(self, segment: Segment) -> None:
        """Delete a file of which everything was moved; what must not be moved is kept beside it first.

        Raises:
            SpillUnavailable: if that cannot be kept now, or the file not be deleted; it stays.
        """
        with self._lock:
            keep_aside(segment, QUARANTINE, segment.conflicts)
            segment.delete()
            self._quarantined += len(segment.conflicts)
            self._segments.remove(segment)

    def close(self) -> None:
        """Give back the files; another process may take them over."""
        with self._lock:
            for segment in self._segments:
                segment.close()
            self._segments.clear()
            self._current = None

    def _write(self, kept: Sequence[tuple[Entry, bytes]]) -> None:
        if self._current is None or self._current.size >= _SEGMENT_BYTES:
            self._current = new_segment(self._folder)
            self._segments.append(self._current)
        segment, offset = self._current, self._current.size
        frames = [(entry, framed(body, segment.salt)) for entry, body in kept]
        try:
            segment.write(b"".join(frame for _, frame in frames))
        except SpillUnavailable:
            self._current = None
            if segment.size <= SALT_BYTES:
                self._segments.remove(segment)
                segment.delete()
            raise
        for entry, frame in frames:
            self._index(segment.path, offset, len(frame), entry)
            offset += len(frame)

    def _check_room(self, size: int, room: int) -> None:
        if size > room:
            raise SpillUnavailable(
                f"{self._max_bytes} bytes are spilled and not moved; mend the ledger, or raise serving.spill.max_bytes",
                file=self._folder,
            )

    def _num_new(self, entry: Entry, taken: dict[str, _Place], traces: dict[str, str]) -> int:
        """Return how many rows or blobs are new; those that are there must be the same."""
        if isinstance(entry, Blob):
            return 1
        number = 0
        for row in entry:
            event_id, key_id, trace_id, digest = row[0], row[3], row[6], row[7]
            there = taken.get(event_id) or self._events.get(event_id)
            if there is not None:
                is_same = (there.key_id, there.digest) == (key_id, digest)
                if not is_same and self._is_live(there.key_id):
                    raise LedgerConflict(event_id)
                continue
            number += 1
            if trace_id is not None and (trace_id in self._traces or trace_id in traces):
                raise TraceTaken("a decision that is spilled carries this trace id")
        return number

    def _index(self, path: Path, offset: int, size: int, entry: Entry) -> None:
        if isinstance(entry, Blob):
            self._blobs[entry.digest] += 1
            self._copies[entry.digest, entry.key_id] += 1
            return
        for number, row in enumerate(entry):
            self._submissions[row[2]] += 1
            if row[0] not in self._events:
                self._events[row[0]] = _Place(path, offset, size, number, row[3], row[7])
                if row[6] is not None:
                    self._traces.setdefault(row[6], row[0])

    def _unindex(self, entry: Entry) -> None:
        if isinstance(entry, Blob):
            _less(self._blobs, entry.digest)
            _less(self._copies, (entry.digest, entry.key_id))
            return
        for row in entry:
            _less(self._submissions, row[2])
            self._events.pop(row[0], None)
            if self._traces.get(row[6]) == row[0]:
                del self._traces[row[6]]

    def _refuse_without_keys(self) -> None:
        # The first keys of a home are the ledger's to make: it looks whether an older file of them was lost.
        if not self.ring.is_there:
            raise KeysUnavailable("there is no file of keys, and the ledger cannot be asked for it")

    def _is_live(self, key_id: str | None) -> bool:
        return key_id is None or bool(self.ring.live([key_id]))


def num_under(folder: Path, key_id: str) -> int:
    """Return how many frames of a spill, whoever holds it, are sealed under a key, dead or alive."""
    number = 0
    for path in (*folder.glob("*.spill"), *_aside(folder)):
        with suppress(FileNotFoundError):
            frames = scan(path.read_bytes()).frames
            number += sum(key_id in _key_ids(frame.entry()) for frame in frames)
    return number


def _key_ids(entry: Entry) -> list[str]:
    found = [entry.key_id] if isinstance(entry, Blob) else [row[3] for row in entry]
    return [one for one in found if one is not None]


def _stage(entry: Entry, taken: dict[str, _Place], traces: dict[str, str]) -> None:
    if isinstance(entry, tuple):
        for row in entry:
            taken[row[0]] = _Place(Path(), 0, 0, 0, row[3], row[7])
            if row[6] is not None:
                traces[row[6]] = row[0]


def _aside(folder: Path) -> list[Path]:
    return [*folder.glob(f"*{QUARANTINE}"), *folder.glob(f"*{DAMAGED}")]


def _num_frames(path: Path) -> int:
    """Return how many frames a file holds that was kept aside; one that holds none is damaged."""
    try:
        return max(1, len(scan(path.read_bytes()).frames))
    except OSError as error:
        raise SpillUnavailable(reason_of(error), file=path) from error


def _less(counter: Counter[_T], name: _T) -> None:
    counter[name] -= 1
    if counter[name] <= 0:
        del counter[name]
