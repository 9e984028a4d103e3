"""Looking at bundles: what they are made of, whether they are whole, what was found out about them."""

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from components.home import Home
from moderation import attestation
from moderation.bundle import Bundle
from moderation.errors import PermanentError
from moderation.settings import settings
from moderation.thresholds import read_thresholds
from tidegate.console import console, say
from tidegate.releasing import registry_of


def verify_bundle(path: Path) -> None:
    """Say that every byte of a bundle is what its digest says.

    Raises:
        BundleRejected: naming the file that is not.
    """
    bundle = Bundle.open(path)
    say(f"[green]verified[/] {bundle.digest}, {len(bundle.manifest.files)} files")


def show_bundle(path: Path) -> None:
    """Show components, inputs, thresholds and attestations of a verified bundle."""
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    say(f"bundle   {bundle.digest}")
    say(f"profile  {manifest.profile}")
    say(f"policies {', '.join(manifest.policies)}")
    for name, value in manifest.inputs.model_dump().items():
        say(f"input    {name} = {value}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("component", "version", "files", "fitted on"):
        table.add_column(column)
    for name, component in manifest.components.items():
        fitted_on = ", ".join(component.fitted_on) or "-"
        table.add_row(name, component.version, str(len(component.files)), fitted_on)
    console.print(table)
    _show_thresholds(bundle)
    for said in attestation.read(bundle):
        verdict = "passing" if said.is_passing else "no passing verdict"
        say(f"attested {said.created_at:%Y-%m-%d %H:%M} {said.kind}: {verdict}")


def _show_thresholds(bundle: Bundle) -> None:
    thresholds = read_thresholds(bundle.folder / "thresholds.json")
    for policy in bundle.manifest.policies:
        tiers = thresholds.get(policy, {})
        shown = ", ".join(f"{tier} from {value:.4g}" for tier, value in tiers.items())
        say(f"tiers    {policy}: {shown or 'all closed'}", markup=False)


def show_evaluation(path: Path | None) -> None:
    """Show the figures that were recorded when a bundle was evaluated.

    Raises:
        PermanentError: if this bundle was not evaluated here.
    """
    bundle = _evaluated(path)
    folder = Home(settings().home).reports / bundle.digest
    try:
        figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PermanentError(
            f"{bundle.digest[:12]} has no evaluation in {folder}; run `tidegate train`"
        ) from error
    say(f"bundle {bundle.digest}")
    console.print(figures_table(figures["metrics"]))
    say(f"report {folder / 'report.html'}")


def _evaluated(path: Path | None) -> Bundle:
    """Return the bundle in `path`, else the champion, else the one registered last: to look is no release."""
    if path is not None:
        return Bundle.open(path)
    registry = registry_of(settings())
    version = registry.champion() or registry.newest()
    if version is None:
        raise PermanentError("no bundle is registered here; run `tidegate train`")
    if version.state == "blocked":
        say(
            f"version {version.version} was blocked by the gates: tidegate gates show {version.digest[:12]}"
        )
    return registry.open(version)


def figures_table(metrics: dict[str, Any]) -> Table:
    """Return flat figures as a table, sorted by name."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in sorted(metrics.items()):
        table.add_row(name, "-" if value is None else f"{value:.4g}")
    return table
