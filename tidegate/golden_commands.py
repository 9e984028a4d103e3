"""The commands of the golden set, and nothing heavy until one is called."""

from typing import Annotated

import typer

from tidegate.options import Policies

golden_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

AsOf = Annotated[
    str | None,
    typer.Option(
        help="Day whose start bounds the truth; the one after the newest truth if absent."
    ),
]


@golden_app.command("build")
def build_golden(as_of: AsOf = None, policies: Policies = None) -> None:
    """Draw a golden set from reviewed truth; its sellers, and copies of it, are never trained on.

    Example: [cyan]tidegate golden build[/], before the first [cyan]tidegate train[/]
    """
    from tidegate.golden import build

    build(as_of, policies)


@golden_app.command("show")
def show_golden(
    version: Annotated[
        int | None, typer.Option(min=1, help="Version; the newest if absent.")
    ] = None,
) -> None:
    """Verify a golden set against its digest and show what is in it.

    Example: [cyan]tidegate golden show --version 1[/]
    """
    from tidegate.golden import show

    show(version)


@golden_app.command("rotate")
def rotate_golden(as_of: AsOf = None, policies: Policies = None) -> None:
    """Replace a part of the golden set by sellers that were never used nor trained on.

    Example: [cyan]tidegate golden rotate[/]
    """
    from tidegate.golden import rotate

    rotate(as_of, policies)


@golden_app.command("looks")
def golden_looks() -> None:
    """Show who looked at which golden set, and how many looks are left.

    Example: [cyan]tidegate golden looks[/]
    """
    from tidegate.golden import show_looks

    show_looks()
