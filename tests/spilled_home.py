"""A home whose ledger fails and whose spill takes over, for tests that break it."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ledger.draining import Drainer
from ledger.events import Event, from_decision, from_submission
from ledger.keys import FILE_NAME, KeyRing
from ledger.ledger import SqliteLedger
from ledger.spill import Spill
from ledger.store import ContentStore
from tests.decided import a_decision
from tests.feature_events import upload

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


class SpilledHome:
    """A ledger, a store and a spill of one folder; `crash` leaves the files as a killed process does."""

    def __init__(self, folder: Path, max_bytes: int = 10**7) -> None:
        self.folder, self.max_bytes, self.outcomes = folder, max_bytes, Counter[str]()
        self.ledger = SqliteLedger(folder / "ledger.sqlite", busy_s=0.05)
        self.store = ContentStore(folder / "content")
        self.ring = KeyRing(folder / FILE_NAME)
        self.ring.of(["s1"])
        self.spill = self.open()

    def open(self) -> Spill:
        return Spill(self.folder / "spill", self.ring, self.max_bytes)

    def crash(self, torn: bytes = b"") -> None:
        self.spill.close()
        if torn and self.files():
            with self.files()[-1].open("ab") as file:
                file.write(torn)
        self.spill = self.open()

    def put(self, *events: Event) -> list[int | Exception]:
        return self.spill.write_each([self.spill.seal([event]) for event in events])

    def drain(self) -> dict[str, int]:
        self.outcomes.clear()
        drainer = Drainer(self.spill, self.ledger, self.store, lambda: "f" * 32)
        drainer.drain(lambda what, number: self.outcomes.update({what: number}))
        return dict(self.outcomes)

    def files(self, suffix: str = ".spill") -> list[Path]:
        return sorted((self.folder / "spill").glob(f"*{suffix}"))

    def ids(self) -> list[str]:
        return [stored.event.event_id for stored in self.ledger.read()]


def uploaded(name: str, seller_id: str | None = "s1", title: str = "Näkki") -> Event:
    return from_submission(upload(name, NOON, seller_id=seller_id, title=title), recorded_at=NOON)


def decided(name: str, seller_id: str | None = "s1", **fields: Any) -> Event:
    return from_decision(a_decision(name, NOON, **fields), recorded_at=NOON, seller_id=seller_id)
