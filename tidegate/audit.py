"""The audit of the simulated world, as a table: which answers it gives away, and how hard it is."""

from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from components.home import Home
from marketplace.audit import AuditReport, audit
from marketplace.config import POLICIES, WORLD_VERSION, WorldConfig
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.policy import load_policies
from moderation.profiles import profile_named
from moderation.settings import settings
from tidegate.console import console


def run_audit(*, seed: int) -> int:
    """Audit the world of `WorldConfig.audit()`, print what was found, and return 1 where a check failed."""
    config = WorldConfig.audit(seed=seed)
    encoders = _encoders(Home(settings().home).towers)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("listings made and embedded: 0", total=None)

        def progress(done: int) -> None:
            shown.update(task, description=f"listings made and embedded: {done:,}")

        report = audit(config, load_policies(settings().policy_file), encoders, progress=progress)
    show(report, seed)
    return 0 if report.ok else 1


def show(report: AuditReport, seed: int) -> None:
    """Print the checks and the precision table of an audit."""
    title = f"World {WORLD_VERSION}, seed {seed}: {report.num_rows:,} listings"
    checks = Table("check", "limit", "value", "", title=title)
    for row in report.rows:
        mark = "[green]ok[/]" if row.ok else "[red]failed[/]"
        checks.add_row(row.check, row.limit, f"{row.value:.3f}", mark)
    console.print(checks)
    precision = Table(
        "",
        *POLICIES,
        "mean",
        title="Average precision at true prevalence, against noise-free truth",
    )
    for name, values in report.average_precision.items():
        mean = sum(values) / len(values)
        precision.add_row(name, *(f"{value:.3f}" for value in values), f"{mean:.3f}")
    console.print(precision)
    parts = Table(
        "violations by", "ensemble", title="The same, apart for what training had not seen"
    )
    for name, value in report.unseen_precision.items():
        parts.add_row(name, "none in the test period" if value != value else f"{value:.3f}")  # NaN
    console.print(parts)
    num_failed = sum(not row.ok for row in report.rows)
    console.print("every check holds" if report.ok else f"[red]{num_failed} checks failed[/]")


def _encoders(folder: Path) -> tuple[ImageEncoder, TextEncoder]:
    """Return the towers of profile `small`, exported first where they are not there yet."""
    from moderation.export import export_towers  # imports torch

    towers = export_towers(profile_named("small"), folder).folder
    threads = settings().num_threads
    return ImageEncoder(towers / "image_tower", threads), TextEncoder(
        towers / "text_tower", threads
    )
