"""Recorded traffic for a replay: decisions of the champion about the newest uploads of a home."""

from collections import deque
from datetime import datetime
from itertools import islice
from typing import Final

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import read_rows
from ledger.events import EventKind, to_decision
from ledger.ledger import SqliteLedger
from ledger.recorded import answer_of
from ledger.store import ContentStore
from moderation.bundle import Bundle
from moderation.policy import PolicyFile
from moderation.scoring import Scorer
from moderation.snapshot_rows import SnapshotRow
from tidegate.doctor.recorded import decisions_about
from tidegate.doctor.workshop import copy_ledger

_CHUNK: Final = 500


def record_traffic(
    home: Home, bundle: Bundle, policies: PolicyFile, at: datetime, *, most: int
) -> int:
    """Record the bundle's decisions about the newest uploads, all at one time; return how many there are.

    A ledger takes no second decision about the same upload: what another bundle decided here before goes first.
    """
    undecided = home.ledger.with_suffix(".undecided")
    if not undecided.exists():
        copy_ledger(home.ledger, undecided)
    elif _decided_by(home) not in (None, bundle.digest):
        copy_ledger(undecided, home.ledger)
    ledger, store, scorer = SqliteLedger(home.ledger), ContentStore(home.content), Scorer(bundle)
    rows = read_rows(ledger, at, policies.ids, known_behaviour(home, ledger))
    newest: deque[SnapshotRow] = deque(rows, maxlen=most)
    left = iter(newest)
    while chunk := list(islice(left, _CHUNK)):
        ledger.append(decisions_about(chunk, scorer, policies, store, decided_at=at))
    return len(newest)


def _decided_by(home: Home) -> str | None:
    """Return the release that gave the first recorded answer; None where there is none."""
    found = SqliteLedger(home.ledger).read((EventKind.DECISION,))
    answers = (answer_of(to_decision(stored.event)) for stored in found)
    return next((answer.release for answer in answers if answer is not None), None)
