"""A gateway's keeper for tests: ledger, store and spill of one folder."""

from pathlib import Path
from typing import Any

from ledger.keys import FILE_NAME, KeyRing
from ledger.ledger import SqliteLedger
from ledger.spill import Spill
from ledger.store import ContentStore
from moderation.clock import Clock, SystemClock
from moderation.release import load_release
from moderation.serving_rules import ServingRules
from serving.gateway.keeping import Keeper

SERVING = load_release(Path("policies/release.yaml")).serving


def with_budget(ledger_ms: int, **spill: Any) -> ServingRules:
    """Return the contract's rules with another budget for the ledger, and other rules of the spill."""
    changes = {
        "budgets": SERVING.budgets.model_copy(update={"ledger_ms": ledger_ms}),
        "spill": SERVING.spill.model_copy(update=spill),
    }
    return SERVING.model_copy(update=changes)


# A slow disk of a test machine is no reason to spill.
PATIENT = with_budget(30_000)


def a_keeper(
    home: Path,
    ledger: SqliteLedger,
    rules: ServingRules = PATIENT,
    *,
    spill_folder: Path | None = None,
    clock: Clock | None = None,
) -> Keeper:
    """Return a keeper of a home that spills into it, or elsewhere."""
    folder = spill_folder or home / "spill"
    spill = Spill(folder, KeyRing(home / FILE_NAME), rules.spill.max_bytes)
    return Keeper(ledger, ContentStore(home / "content"), spill, rules, clock or SystemClock())
