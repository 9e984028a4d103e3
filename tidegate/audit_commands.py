"""The commands about what audits found, and nothing heavy until one is called."""

from typing import Annotated

import typer

audit_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@audit_app.command("prefilter")
def audit_prefilter(
    days: Annotated[
        int | None, typer.Option(min=1, help="Uploads decided in so many days; all if absent.")
    ] = None,
) -> None:
    """Estimate what the behaviour prefilter lets go, per policy: exit code 0 floors kept, 1 one broken, 2 not shown.

    Example: [cyan]tidegate audit prefilter --days 90[/]
    """
    from tidegate.prefilter_audit import run_audit

    raise typer.Exit(run_audit(days))
