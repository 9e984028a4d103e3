"""What is sealed in the ledger: opens to what it was, or says that it was altered."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from ledger.events import Event, EventKind, from_submission, to_submission
from ledger.keys import KeyRing, SealBroken
from ledger.sealing import readable, to_row
from moderation.errors import PermanentError
from tests.feature_events import upload
from tests.fuzz.mutations import of_json, to_text
from tests.fuzz.target import Target

_NOON: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)
_FOLDERS: Final[list[TemporaryDirectory[str]]] = []


@cache
def _ring() -> KeyRing:
    _FOLDERS.append(TemporaryDirectory(prefix="tidegate-fuzz-"))
    return KeyRing(Path(_FOLDERS[0].name) / "keys.sqlite")


def _payloads() -> list[bytes]:
    events = [
        from_submission(
            upload(f"u{n}", _NOON, seller_id="seller-1", title="Näkki"), recorded_at=_NOON
        )
        for n in range(2)
    ]
    return [event.payload_json().encode() for event in events]


def check_sealed(data: bytes) -> int:
    """Seal a payload and open it again; then alter what was sealed, by the same bytes, and see it refused."""
    event = _event(data)
    if event is None:
        return len(data)
    key = _ring().of(["seller-1"])["seller-1"]
    try:
        text = event.payload_json()
    except PermanentError:
        return len(data)
    row = _as_read(to_row(event, text, key))
    [stored] = readable([row], _ring())
    assert stored.event == event, "an event is not read as it was written"
    for altered in _altered(row, data):
        try:
            list(readable([altered], _ring()))
        except SealBroken:
            continue
        raise AssertionError("an altered seal opens")
    with suppress(PermanentError):
        to_submission(event)
    return len(data)


def _event(data: bytes) -> Event | None:
    try:
        payload = json.loads(to_text(data))
    except (ValueError, RecursionError):
        return None
    if not isinstance(payload, dict):
        return None
    event = from_submission(upload("u1", _NOON, seller_id="seller-1"), recorded_at=_NOON)
    return replace(event, payload=payload)


def _as_read(row: Sequence[object]) -> tuple[object, ...]:
    """Return a row of `INSERT` as one of `COLUMNS`."""
    event_id, kind, submission_id, key_id, occurred, recorded, _, _, payload = row
    return 1, event_id, kind, submission_id, key_id, occurred, recorded, payload


def _altered(row: tuple[object, ...], data: bytes) -> list[tuple[object, ...]]:
    sealed = row[7]
    assert isinstance(sealed, bytes)
    at = sum(data) % len(sealed)
    flipped = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
    frames: list[object] = [flipped, sealed[:at], sealed + b"\0", data, "text", None]
    moved = (*row[:3], "another", *row[4:])
    renamed = (*row[:2], EventKind.DECISION.value, *row[3:])
    return [(*row[:7], frame) for frame in frames] + [moved, renamed]


SEALED: Final = Target(
    "sealed-event",
    _payloads,
    of_json,
    check_sealed,
    6,
    20,
    20,
    "bytes",
    60,
    ("ledger.sealing", "ledger.keys"),
)
