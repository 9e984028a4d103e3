"""Events as rows of the ledger's table: what names a seller is sealed under the seller's key, and named by it."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from ledger.events import (
    Event,
    EventKind,
    StoredEvent,
    from_microseconds,
    to_microseconds,
)
from ledger.keys import KeyRing, SealBroken, SellerKey

COLUMNS: Final = (
    "sequence, event_id, kind, submission_id, key_id, occurred_us, recorded_us, payload"
)
INSERT: Final = (
    "INSERT INTO events (event_id, kind, submission_id, key_id, occurred_us, recorded_us, trace_id, digest, payload)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

Row = tuple[Any, ...]


def to_row(event: Event, payload_json: str, key: SellerKey | None) -> Row:
    """Return the values of `INSERT`; without a key the payload is kept as it is."""
    occurred = to_microseconds(event.occurred_at)
    payload: str | bytes = payload_json
    if key is not None:
        about = _about(event.event_id, event.kind, event.submission_id, occurred)
        payload = key.seal(payload_json.encode("utf-8"), about)
    return (
        event.event_id,
        event.kind.value,
        event.submission_id,
        None if key is None else key.key_id,
        occurred,
        to_microseconds(event.recorded_at),
        event.payload.get("trace_id") if event.kind is EventKind.DECISION else None,
        digest_of(event, payload_json, key),
        payload,
    )


def digest_of(event: Event, payload_json: str, key: SellerKey | None) -> bytes:
    """Return what tells one content from another.

    A plain digest of so little could be guessed after the erasure, so that of a sealed event is keyed.
    """
    content = event.content(payload_json)
    return hashlib.sha256(content).digest() if key is None else key.digest(content)


def readable(rows: Sequence[Row], ring: KeyRing) -> Iterator[StoredEvent]:
    """Yield the events of rows of `COLUMNS`; those of erased sellers are passed over.

    Raises:
        SealBroken: if a payload of a key that lives was altered.
        KeysLost: if a key is not there, and nobody destroyed it.
    """
    keys = ring.live({row[4] for row in rows if row[4] is not None})
    for row in rows:
        if row[4] is None:
            yield _stored(row, row[7], None)
        elif key := keys.get(row[4]):
            yield _stored(row, _opened(row, key), key.seller_id)


def event_of(row: Row, ring: KeyRing) -> Event:
    """Return the event of a row of `INSERT` that no ledger holds yet; its seller must not be erased.

    Raises:
        SealBroken: if it was altered, or its seller is erased.
        KeysLost: if its key is not there, and nobody destroyed it.
    """
    event_id, kind, submission_id, key_id, occurred, recorded, _, _, payload = row
    read = (0, event_id, kind, submission_id, key_id, occurred, recorded, payload)
    stored = next(readable([read], ring), None)
    if stored is None:
        raise SealBroken(f"event {event_id} is of a seller that was erased")
    return stored.event


def keys_for(events: Iterable[Event], ring: KeyRing) -> dict[str | None, SellerKey | None]:
    """Return the key that each event is sealed under, by seller; None where it names nobody."""
    sellers = {event.seller_id for event in events if event.seller_id is not None}
    keys: dict[str | None, SellerKey | None] = {None: None}
    keys.update(ring.of(sellers).items())
    return keys


def _opened(row: Row, key: SellerKey) -> bytes:
    try:
        return key.open(row[7], _about(row[1], row[2], row[3], row[5]))
    except (SealBroken, TypeError) as error:
        raise SealBroken(
            f"event {row[1]} was altered in the ledger: its seal does not hold; put back a copy"
        ) from error


def _about(event_id: str, kind: str, submission_id: str, occurred_us: int) -> bytes:
    return "\x1f".join((event_id, kind, submission_id, str(occurred_us))).encode("utf-8")


def _stored(row: Row, payload: str | bytes, seller_id: str | None) -> StoredEvent:
    sequence, event_id, kind, submission_id, _, occurred, recorded, _ = row
    event = Event(
        event_id,
        EventKind(kind),
        submission_id,
        seller_id,
        from_microseconds(occurred),
        from_microseconds(recorded),
        json.loads(payload),
    )
    return StoredEvent(sequence, event)
