"""The commands about sellers who are to be forgotten, and nothing heavy until one is called."""

from typing import Annotated

import typer

privacy_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@privacy_app.command("erase")
def erase_seller(seller: Annotated[str, typer.Argument(help="Id of the seller.")]) -> None:
    """Destroy the key of a seller and remove what is left; exits non-zero while something is pending.

    Example: [cyan]tidegate privacy erase u-148[/]
    """
    from tidegate.privacy import erase

    raise typer.Exit(erase(seller))


@privacy_app.command("show")
def show_erasures() -> None:
    """Show the erasures of this home: what is done, and what is pending.

    Example: [cyan]tidegate privacy show[/]
    """
    from tidegate.privacy import show

    show()
