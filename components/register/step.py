"""Bundle -> registry, with its lineage, its figures and its report."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from components.home import Home
from components.registry import Registry
from moderation.bundle import Bundle


def run(
    release: str,
    figures: str,
    report: str,
    lineage: Mapping[str, str | None],
    home: str,
    tracking_url: str,
) -> dict[str, str]:
    """Register the bundle; return its digest, its version and its aliases.

    Args:
        release: folder of the bundle.
        figures: JSON of its evaluation, with flat `metrics`.
        report: HTML report of its evaluation.
        lineage: what made it, by name.
        home: folder that keeps the bundle and its report.
        tracking_url: registry; empty means SQLite below `home`.
    """
    place = Home(Path(home))
    bundle = Bundle.open(Path(release))
    reports = keep_reports(place.reports / bundle.digest, Path(figures), Path(report))
    registry = Registry(
        tracking_url or place.tracking_url, bundles=place.bundles, artifacts=place.artifacts
    )
    numbers = json.loads(Path(figures).read_text(encoding="utf-8"))["metrics"]
    version = registry.register(bundle, metrics=numbers, lineage=lineage, reports=reports)
    return {
        "digest": bundle.digest,
        "version": str(version.version),
        "aliases": ",".join(version.aliases),
    }


def keep_reports(folder: Path, figures: Path, report: Path) -> list[Path]:
    """Copy the evaluation to where a person finds it by the bundle's digest; return the copies."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / "metrics.json", folder / "report.html"]
    for source, target in zip((figures, report), kept, strict=True):
        shutil.copyfile(source, target)
    return kept
