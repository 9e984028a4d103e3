"""Golden sets of a home: built and rotated from what its ledger knows as of one time."""

import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import open_rows, read_rows, write_rows
from components.snapshot.step import hashed_rows
from ledger.ledger import Ledger, SqliteLedger
from ledger.store import ContentStore
from moderation.errors import PermanentError
from moderation.golden import GoldenSet, build_golden, rotate_golden
from moderation.release import GoldenRules
from moderation.snapshot_rows import SnapshotRow


def build(
    home: Home, as_of: datetime, policy_ids: tuple[str, ...], rules: GoldenRules
) -> GoldenSet:
    """Return version 1 of the home's golden set.

    Raises:
        InvalidSnapshot: if there is one already, or nothing can be drawn.
        PermanentError: if the home holds no ledger.
    """
    return _drawn(build_golden, home, as_of, policy_ids, rules)


def rotate(
    home: Home, as_of: datetime, policy_ids: tuple[str, ...], rules: GoldenRules
) -> GoldenSet:
    """Return the next version of the home's golden set.

    Raises:
        InvalidSnapshot: if there is none yet, or no group is left to rotate in.
        PermanentError: if the home holds no ledger.
    """
    return _drawn(rotate_golden, home, as_of, policy_ids, rules)


def _drawn(
    draw: Callable[..., GoldenSet],
    home: Home,
    as_of: datetime,
    policy_ids: tuple[str, ...],
    rules: GoldenRules,
) -> GoldenSet:
    ledger, read_blob = _open_ledger(home), ContentStore(home.content).get

    def hashed(rows: Iterator[SnapshotRow]) -> Iterator[SnapshotRow]:
        return hashed_rows(rows, read_blob)

    # The rows are read several times: the ledger once.
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        kept = Path(folder) / "rows.parquet"
        write_rows(read_rows(ledger, as_of, policy_ids, known_behaviour(home, ledger)), kept)
        return draw(
            home.golden,
            lambda: open_rows(kept),
            rules,
            policy_ids=policy_ids,
            as_of=as_of,
            hashed=hashed,
        )


def _open_ledger(home: Home) -> Ledger:
    if not home.ledger.is_file():
        raise PermanentError(
            f"{home.folder} holds no ledger; run `tidegate simulate` or `tidegate import` first"
        )
    return SqliteLedger(home.ledger)
