"""Commands about sellers who are to be forgotten: erase one, see what was erased and what is pending."""

from rich.table import Table

from components.home import Home
from featurestore.layout import Place
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.settings import settings
from tidegate.console import console, say
from tidegate.erasing import Eraser, Receipt


def erase(seller: str) -> int:
    """Erase a seller and show the receipts; return 0, or 1 while something is pending.

    Raises:
        UnknownSeller: if nothing of this seller is there.
        TemporaryError: if a file cannot be written now; ask again.
    """
    config = settings()
    home = _home()
    receipts = Eraser(
        home, Place.of(config), SystemClock(), spill_folder=config.spill_folder
    ).erase(seller)
    for one in receipts:
        _show(one, home)
    return int(any(one.pending for one in receipts))


def show() -> None:
    """Show every erasure, without whose it was."""
    home = _home()
    ledger = SqliteLedger(home.ledger)
    found = ledger.erasures.all()
    if not found:
        say("nobody was erased")
        return
    table = Table("key", "destroyed", "feature store", "finished", "events")
    for one in found:
        table.add_row(
            one.key_id,
            f"{one.erased_at:%Y-%m-%d %H:%M}",
            f"{one.features_at:%Y-%m-%d %H:%M}" if one.features_at else "pending",
            f"{one.finished_at:%Y-%m-%d %H:%M}" if one.finished_at else "pending",
            f"{one.counts.get('events', 0):,}",
        )
    console.print(table)
    unfinished = [one for one in found if one.finished_at is None]
    if unfinished:
        say(f"pending  {len(unfinished)}: tidegate privacy erase with the same seller goes on")
    say(f"receipts {home.receipts}")


def _home() -> Home:
    home = Home(settings().home)
    if not home.ledger.is_file():
        raise PermanentError(
            f"{home.folder} holds no ledger; look at TIDEGATE__HOME, nothing was erased"
        )
    return home


def _show(receipt: Receipt, home: Home) -> None:
    state = "[green]erased[/] " if receipt.is_finished else "[yellow]pending[/]"
    say(f"{state}  key {receipt.key_id} was destroyed at {receipt.erased_at}")
    for name, number in receipt.removed.items():
        say(f"removed  {number:,} {name.replace('_', ' ')}", markup=False)
    for where, what in receipt.left.items():
        say(f"left     {where}: {what}", markup=False)
    if receipt.pending:
        say(f"pending  {receipt.pending}", markup=False)
    else:
        say(f"receipt  {home.receipts / receipt.key_id}.json", markup=False)
