"""The frozen sets that candidate and champion answer: golden, traffic and fresh truth."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import ESTABLISHING, newest_truth, read_rows
from components.prove.frozen import FrozenRows, ReadBlob, Record, freeze, records_of
from ledger.ledger import Ledger, SqliteLedger
from moderation.errors import InvalidSnapshot
from moderation.golden_set import GoldenSet
from moderation.listing import Submission
from moderation.snapshot import Snapshot, SnapshotRow
from moderation.snapshot_rows import is_immature, links_of, to_record
from moderation.splitting import group_rows

_GOLDEN_ROLE = "golden"


def golden_rows(golden: GoldenSet, policies: tuple[str, ...], read_blob: ReadBlob) -> FrozenRows:
    """Return the golden set, as it is: enriched with violations and look-alikes."""
    records = records_of(golden.table, _GOLDEN_ROLE)
    return freeze("golden", records, golden.table.policy_ids, policies, read_blob)


def traffic_rows(snapshot: Snapshot, policies: tuple[str, ...], read_blob: ReadBlob) -> FrozenRows:
    """Return the test rows of the candidate's snapshot: with their weights they stand for deployed traffic."""
    return freeze("traffic", records_of(snapshot, "test"), snapshot.policy_ids, policies, read_blob)


def fresh_rows(
    home: Home,
    after: datetime,
    policies: tuple[str, ...],
    read_blob: ReadBlob,
    *,
    known: frozenset[str],
) -> FrozenRows:
    """Return the submissions about which nothing was known until `after`, with the truth that arrived since.

    Args:
        home: holds the ledger.
        after: the later cut-off of both bundles' snapshots.
        policies: of the candidate.
        read_blob: gives the bytes of an image.
        known: submissions that a bundle was trained on or that the golden set holds.

    Raises:
        InvalidSnapshot: if no such truth is there.
    """
    if not Path(home.ledger).is_file():
        raise InvalidSnapshot(f"{home.ledger} is not there, so that no truth can be fresh")
    ledger = SqliteLedger(home.ledger)
    until = newest_truth(ledger)
    if until is None or until <= after:
        raise InvalidSnapshot(
            f"no truth arrived after {after:%Y-%m-%d %H:%M} UTC, until when both bundles' training could see it; "
            "wait for reviews"
        )
    seen = known | _reviewed_until(ledger, after)

    def is_fresh(submission: Submission, has_truth: bool) -> bool:
        is_new = has_truth and submission.submission_id not in seen
        return is_new and not is_immature(submission, until)

    behaviour_at = known_behaviour(home, ledger)
    rows = list(read_rows(ledger, until, policies, behaviour_at, is_fresh))
    if not rows:
        raise InvalidSnapshot(
            f"no submission has mature truth that arrived after {after:%Y-%m-%d %H:%M} UTC alone; wait for reviews"
        )
    return freeze("fresh", _records(rows, policies), policies, policies, read_blob)


def _reviewed_until(ledger: Ledger, after: datetime) -> frozenset[str]:
    """Return the submissions of which something was known by then, that a snapshot may have held."""
    known = ledger.read(ESTABLISHING, until=after)
    return frozenset(stored.event.submission_id for stored in known)


def _records(rows: list[SnapshotRow], policies: tuple[str, ...]) -> Iterable[Record]:
    group_N = group_rows([list(links_of(row.submission)) for row in rows])
    for row, group in zip(rows, group_N.tolist(), strict=True):
        yield to_record(row, policies) | {"group": group}
