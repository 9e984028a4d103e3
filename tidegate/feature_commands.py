"""`tidegate features`: what each command takes and says of itself; imports wait until one runs."""

from typing import Annotated

import typer

features_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@features_app.command("apply")
def apply_features() -> None:
    """Set up the feature store of this home, or bring it to this release; what is stored stays.

    Example: [cyan]tidegate features apply[/]
    """
    from tidegate.features import set_up

    set_up()


@features_app.command("stream")
def stream_features(
    once: Annotated[bool, typer.Option("--once", help="Catch up and stop.")] = False,
    every: Annotated[float, typer.Option(min=0.05, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Follow the ledger: what sellers do reaches the online rows, and the history that training reads.

    Example: [cyan]tidegate features stream[/]
    """
    from tidegate.features import stream

    stream(once=once, every_s=every)


@features_app.command("show")
def show_features(
    seller: Annotated[str, typer.Argument(help="Id of the seller.")],
    device: Annotated[str | None, typer.Option(help="Fingerprint of a device.")] = None,
    address: Annotated[str | None, typer.Option(help="Fingerprint of an address.")] = None,
) -> None:
    """Show what a gate would read of a seller now, and how old it is.

    Example: [cyan]tidegate features show u-148[/]
    """
    from tidegate.features import show

    show(seller, device, address)


@features_app.command("skew")
def skew_features(
    date: Annotated[
        str | None,
        typer.Option(help="The day after the one that is looked at; without one, today is."),
    ] = None,
) -> None:
    """Compare what decisions used with what was known, feature by feature.

    Example: [cyan]tidegate features skew --date 2026-11-20[/]
    """
    from tidegate.features import skew

    skew(date)


@features_app.command("refused")
def refused_events() -> None:
    """Show the events that were not counted, and why.

    Example: [cyan]tidegate features refused[/]
    """
    from tidegate.features import refused

    refused()


@features_app.command("replay")
def replay_refused(
    waive: Annotated[
        list[str] | None,
        typer.Option(help="Reason that refuses nothing any more: late or null_flood."),
    ] = None,
) -> None:
    """Look at refused events again and count what is right now; what cannot be read never counts.

    Stop the stream first: a store has one writer.

    Example: [cyan]tidegate features replay --waive late[/]
    """
    from featurestore.intake import WAIVABLE
    from tidegate.features import replay

    known = {reason.value: reason for reason in WAIVABLE}
    unknown = sorted(set(waive or ()) - set(known))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: reasons are {', '.join(known)}")
    replay([known[one] for one in waive or ()])


@features_app.command("profile")
def profile_sellers(
    as_of: Annotated[
        str | None, typer.Option(help="Day at whose start sellers are looked at; now if absent.")
    ] = None,
) -> None:
    """Write the profile of every active seller: what windows of drift and Feast's monitoring read."""
    from tidegate.features import profile

    profile(as_of)


@features_app.command("prune")
def prune_features(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Take rows that are past their days out of history and online store, and make few files of many.

    Stop the stream first: a store has one writer.
    """
    from tidegate.features import prune_views

    prune_views(is_dry_run=dry_run)
