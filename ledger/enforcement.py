"""The chain of changes of automatic enforcement: numbered events, so that two writers never both make the next one."""

from datetime import datetime

from ledger.events import from_enforcement, to_enforcement
from ledger.ledger import Ledger, LedgerConflict
from moderation.enforcement import EnforcementChange


def newest_change(ledger: Ledger, after: EnforcementChange | None) -> EnforcementChange | None:
    """Return the newest change; None where there never was one.

    Args:
        ledger: holds the chain.
        after: the newest that is known; only what follows it is read.

    Raises:
        LedgerUnavailable: if the ledger cannot be read now.
    """
    newest = after
    while stored := ledger.get_event(f"enforcement:{next_number(newest)}"):
        newest = to_enforcement(stored.event)
    return newest


def next_number(newest: EnforcementChange | None) -> int:
    """Return the number of the change that would follow `newest`."""
    return 1 if newest is None else newest.number + 1


def record_change(ledger: Ledger, change: EnforcementChange, recorded_at: datetime) -> bool:
    """Append a change, and return whether it is in the chain now; False where another one took its number.

    Raises:
        LedgerUnavailable: if the ledger cannot be written now.
    """
    try:
        ledger.append([from_enforcement(change, recorded_at=recorded_at)])
    except LedgerConflict:
        return False
    return True
