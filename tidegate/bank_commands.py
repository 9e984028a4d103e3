"""The commands of the banks of known images, and nothing heavy until one is called."""

from pathlib import Path
from typing import Annotated

import typer

from tidegate.options import Policies

banks_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Version = Annotated[str, typer.Argument(help="Version, or how its name begins.")]
MaybeVersion = Annotated[
    str | None, typer.Argument(help="Version, or how its name begins; the active one if absent.")
]
Entries = Annotated[list[str], typer.Argument(help="Ids of entries of the active version.")]
Reason = Annotated[str, typer.Option(help="Why; at least eight characters.")]
By = Annotated[str, typer.Option(help="Who says so.")]


@banks_app.command("build")
def build_banks(
    entries: Annotated[Path, typer.Argument(help="Entries as .jsonl or .parquet.")],
    policies: Policies = None,
    activate: Annotated[bool, typer.Option("--activate", help="Make it the active one.")] = False,
) -> None:
    """Write an immutable version of known images; gateways go on with the active one.

    Example: [cyan]tidegate banks build known.jsonl --activate[/]
    """
    from tidegate.banks import build

    build(entries, policies, is_activated=activate)


@banks_app.command("list")
def list_banks() -> None:
    """Show all versions, and which one is active.

    Example: [cyan]tidegate banks list[/]
    """
    from tidegate.banks import show_all

    show_all()


@banks_app.command("show")
def show_banks(version: MaybeVersion = None) -> None:
    """Show what is in a version, and which entries are switched by hand.

    Example: [cyan]tidegate banks show 3f9a[/]
    """
    from tidegate.banks import show

    show(version)


@banks_app.command("activate")
def activate_banks(version: Version) -> None:
    """Verify a version byte by byte and let gateways follow it, within half a second.

    Example: [cyan]tidegate banks activate 3f9a[/]
    """
    from tidegate.banks import activate

    activate(version)


@banks_app.command("rollback")
def roll_banks_back() -> None:
    """Make the version before the active one active again; switches stay as they are.

    Example: [cyan]tidegate banks rollback[/]
    """
    from tidegate.banks import roll_back

    roll_back()


@banks_app.command("enable")
def enable_entries(entries: Entries, reason: Reason, by: By) -> None:
    """Let entries match at once, whatever their version says.

    Example: [cyan]tidegate banks enable gun-17 --reason "confirmed by appeals" --by ana[/]
    """
    from tidegate.banks import switch

    switch(entries, is_enabled=True, reason=reason, by=by)


@banks_app.command("disable")
def disable_entries(entries: Entries, reason: Reason, by: By) -> None:
    """Let entries match no more, at once and without a build: a false alarm must stop within seconds.

    Example: [cyan]tidegate banks disable gun-17 --reason "stock photo of a drill" --by ana[/]
    """
    from tidegate.banks import switch

    switch(entries, is_enabled=False, reason=reason, by=by)


@banks_app.command("verify")
def verify_banks(version: MaybeVersion = None) -> None:
    """Read every byte of a version and look a sample of its own entries up.

    Example: [cyan]tidegate banks verify[/]
    """
    from tidegate.banks import verify

    verify(version)
