"""Bundle -> registry, with its lineage, its figures, its report and what the gates made of it."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.home import Home
from components.judge.outcome import Outcome
from components.outputs import place_folder
from components.registry import Registry
from moderation.bundle import Bundle
from moderation.settings import settings


@dataclass(frozen=True)
class RegisterInputs:
    """Where the parts of a run lie."""

    release: str
    """Folder of the bundle."""

    figures: str
    """JSON of its evaluation, with flat `metrics`."""

    report: str
    """HTML report of its evaluation."""

    outcome: str
    """JSON of what the gates made of it."""

    pack: str
    """Folder of its evidence pack."""


def run(
    inputs: RegisterInputs, lineage: Mapping[str, str | None], home: str, tracking_url: str
) -> dict[str, str]:
    """Register the bundle; return its digest, its version, its aliases and its state.

    Args:
        inputs: parts of the same run.
        lineage: what made it, by name.
        home: folder that keeps the bundle and its report.
        tracking_url: registry; empty means SQLite below `home`.

    Raises:
        GateRejected: if it is proposed, but what is attested beside it does not let it be released.
    """
    place = Home(Path(home))
    bundle = Bundle.open(Path(inputs.release))
    reports = keep_reports(place, bundle.digest, inputs)
    registry = Registry(
        tracking_url or place.tracking_url,
        bundles=place.bundles,
        artifacts=place.artifacts,
        accepts=settings().release_profile,  # of the place where it would answer, not of the run
    )
    numbers = json.loads(Path(inputs.figures).read_text(encoding="utf-8"))["metrics"]
    outcome = Outcome.load(inputs.outcome)
    version = registry.register(bundle, outcome, metrics=numbers, lineage=lineage, reports=reports)
    return {
        "digest": bundle.digest,
        "version": str(version.version),
        "aliases": ",".join(version.aliases),
        "state": outcome.state,
    }


def keep_reports(place: Home, digest: str, inputs: RegisterInputs) -> list[Path]:
    """Copy evaluation and evidence pack to where a person finds them by the bundle's digest; return the copies."""
    folder, pack = place.reports / digest, place.pack(digest)
    folder.mkdir(parents=True, exist_ok=True)
    kept = [folder / "metrics.json", folder / "report.html"]
    for source, target in zip((inputs.figures, inputs.report), kept, strict=True):
        shutil.copyfile(source, target)
    place_folder(Path(inputs.pack), pack)
    return [*kept, pack]
