"""Commands around the golden set: build it, show it, rotate a part of it, see who looked at it."""

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from rich.table import Table

from components import golden as drawing
from components.home import Home
from components.ingest.rows import newest_truth
from components.policies import cut_off_of
from ledger.ledger import SqliteLedger
from moderation.errors import PermanentError
from moderation.golden import GoldenSet, golden_versions, looks
from moderation.policy import load_policies
from moderation.settings import Settings, settings
from tidegate.console import console, say
from tidegate.releasing import contract_of
from tidegate.training import with_policies


def build(as_of: str | None, policies: Path | None) -> None:
    """Build version 1 and say what is in it.

    Raises:
        PermanentError: if the ledger holds no truth, a set is there already, or nothing can be drawn.
    """
    config = with_policies(policies)
    home = Home(config.home)
    rules = contract_of(config).golden
    ids = load_policies(config.policy_file).ids
    _show_set(drawing.build(home, _time_of(as_of, home), ids, rules))
    say("next     tidegate train: none of these listings, sellers or copies will be trained on")


def rotate(as_of: str | None, policies: Path | None) -> None:
    """Replace a part of the set by listings that were never used nor trained on; say what changed.

    Raises:
        PermanentError: if there is no set yet, or no unused group.
    """
    config = with_policies(policies)
    home = Home(config.home)
    rules = contract_of(config).golden
    ids = load_policies(config.policy_file).ids
    _show_set(drawing.rotate(home, _time_of(as_of, home), ids, rules))
    say("next     tidegate train: what was retired stays out of training, its verdicts stay valid")


def show(version: int | None) -> None:
    """Verify a version, the newest if None, and say what is in it.

    Raises:
        PermanentError: if there is none, or one was altered.
    """
    versions = _versions(settings())
    found = [one for one in versions if version in (None, one.version)]
    if not found:
        raise PermanentError(
            f"there is no golden set {version}; there are versions 1 to {versions[-1].version}"
        )
    _show_set(found[-1])


def show_looks() -> None:
    """Say which bundle was judged on which version, by whom and when, and how many looks are left.

    Raises:
        PermanentError: if there is no set, or the log is damaged.
    """
    config = settings()
    versions, most = _versions(config), contract_of(config).golden.max_looks
    seen = looks(Home(config.home).golden)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("at", "version", "bundle", "seed", "by"):
        table.add_column(column)
    for look in seen:
        row = (f"{look.at:%Y-%m-%d %H:%M}", str(look.version), look.bundle[:12], str(look.seed))
        table.add_row(*row, look.by)
    if seen:
        console.print(table)
    for one in versions:
        used = len({look.counted_as for look in seen if look.version == one.version})
        say(f"version {one.version}: {used} of {most} looks used")


def _versions(config: Settings) -> list[GoldenSet]:
    versions = golden_versions(Home(config.home).golden)
    if not versions:
        raise PermanentError(
            f"{config.home} has no golden set; build one with `tidegate golden build`"
        )
    return versions


def _show_set(golden: GoldenSet) -> None:
    say(f"[green]golden set {golden.version}[/] {golden.digest}")
    say(f"folder   {golden.folder}")
    say(f"as of    {golden.as_of:%Y-%m-%d %H:%M} UTC, {len(golden.sellers)} sellers")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rows")
    table.add_column("number", justify="right")
    for name, number in golden.counts.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    console.print(table)


def _time_of(as_of: str | None, home: Home) -> datetime:
    if as_of is not None:
        return cut_off_of(as_of)
    newest = newest_truth(SqliteLedger(home.ledger)) if home.ledger.is_file() else None
    if newest is None:
        raise PermanentError(
            "the ledger holds no truth; run `tidegate simulate` or `tidegate import` first"
        )
    return datetime.combine(newest.date() + timedelta(days=1), time(), UTC)
