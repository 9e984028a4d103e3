"""Ledger -> rows of one logical date."""

from pathlib import Path

from components.behaviour import known_behaviour
from components.home import Home
from components.ingest.rows import read_rows, write_rows
from components.policies import cut_off_of, read_policies
from ledger.ledger import SqliteLedger


def run(home: str, logical_date: str, policies: str, *, out: str) -> dict[str, float]:
    """Write the rows that the logical date may see to `out`; return their count.

    Raises:
        FeatureStoreUnavailable: if the feature store cannot be brought up to date now.
    """
    place = Home(Path(home))
    ledger = SqliteLedger(place.ledger)
    behaviour_at = known_behaviour(place, ledger)
    policy_ids = read_policies(policies).ids
    rows = read_rows(ledger, cut_off_of(logical_date), policy_ids, behaviour_at)
    return {"rows": float(write_rows(rows, Path(out)))}
