"""Ledger -> rows of one logical date."""

from pathlib import Path

from components.home import Home
from components.ingest.rows import read_rows, write_rows
from components.policies import cut_off_of, read_policies
from ledger.ledger import SqliteLedger


def run(home: str, logical_date: str, policies: str, *, out: str) -> dict[str, float]:
    """Write the rows that the logical date may see to `out`; return their count."""
    ledger = SqliteLedger(Home(Path(home)).ledger)
    rows = read_rows(ledger, cut_off_of(logical_date), read_policies(policies).ids)
    return {"rows": float(write_rows(rows, Path(out)))}
