"""Recorded traffic for a replay: decisions of the champion about the newest uploads of a home."""

from collections import deque
from datetime import datetime
from itertools import islice
from typing import Final

from components.home import Home
from components.ingest.rows import read_rows
from ledger.ledger import SqliteLedger
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.policy import PolicyFile
from moderation.scoring import Scorer
from moderation.snapshot_rows import SnapshotRow
from tidegate.doctor.recorded import decisions_about

_CHUNK: Final = 500


def record_traffic(
    home: Home, bundle: Bundle, policies: PolicyFile, at: datetime, *, most: int
) -> int:
    """Record the bundle's decisions about the newest uploads, all at one time; return how many there are."""
    ledger, store, scorer = SqliteLedger(home.ledger), ContentStore(home.content), Scorer(bundle)
    newest: deque[SnapshotRow] = deque(read_rows(ledger, at, policies.ids), maxlen=most)
    rows = iter(newest)
    while chunk := list(islice(rows, _CHUNK)):
        ledger.append(decisions_about(chunk, scorer, policies, store, decided_at=at))
    return len(newest)
