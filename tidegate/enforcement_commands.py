"""The commands about automatic enforcement, and nothing heavy until one is called."""

from typing import Annotated

import typer

enforcement_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

Reason = Annotated[str, typer.Option(help="Why, for the record; eight characters or more.")]
By = Annotated[str, typer.Option(help="Who decides it, for the record.")]


@enforcement_app.command("show")
def show_enforcement() -> None:
    """Show whether listings are blocked and suspended without a person, and every gateway: exit code 1 while stopped.

    Example: [cyan]tidegate enforcement show[/]
    """
    from tidegate.enforcement import show

    raise typer.Exit(show())


@enforcement_app.command("stop")
def stop_enforcement(reason: Reason, by: By) -> None:
    """Stop it by hand: what would be blocked or suspended goes to review, until it is reset.

    Example: [cyan]tidegate enforcement stop --reason "wave of false blocks" --by ana[/]
    """
    from tidegate.enforcement import change

    change(stop=True, reason=reason, by=by)


@enforcement_app.command("reset")
def reset_enforcement(reason: Reason, by: By) -> None:
    """Let it go on after a stop; the gateways count anew.

    Example: [cyan]tidegate enforcement reset --reason "rolled back to 4f2a" --by ana[/]
    """
    from tidegate.enforcement import change

    change(stop=False, reason=reason, by=by)
