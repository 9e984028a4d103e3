"""Ledger -> rows of one logical date."""

from pathlib import Path

from components.behaviour import known_behaviour, place_of
from components.home import Home
from components.ingest.rows import read_rows, write_rows
from components.policies import cut_off_of, read_policies
from featurestore.writer import letters_of
from ledger.ledger import SqliteLedger


def run(home: str, logical_date: str, policies: str, *, out: str) -> dict[str, float]:
    """Write the rows that the logical date may see to `out`; return how many there are.

    And how many events the feature store refused: no row has them in its behaviour (`tidegate features refused`).

    Raises:
        FeatureStoreUnavailable: if the feature store cannot be brought up to date now.
    """
    place = Home(Path(home))
    ledger = SqliteLedger(place.ledger)
    behaviour_at = known_behaviour(place, ledger)
    policy_ids = read_policies(policies).ids
    rows = read_rows(ledger, cut_off_of(logical_date), policy_ids, behaviour_at)
    num_rows = write_rows(rows, Path(out))
    refused = letters_of(place_of(place)).counts()
    return {"rows": float(num_rows), "refused_events": float(sum(refused.values()))}
