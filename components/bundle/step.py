"""Parts of one run -> a verified bundle."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moderation import bundle as bundles
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.snapshot import Snapshot


@dataclass(frozen=True)
class BundleParts:
    """Where the parts of a run lie."""

    table: str
    towers: str
    model: str
    calibration: str


def run(parts: BundleParts, inputs: dict[str, Any], profile: str, *, out: str) -> str:
    """Write the bundle to `out` and return its digest.

    Args:
        parts: of the same run.
        inputs: `code`, `config`, `seed` and `prior_study`: what goes into the digest beside the files.
        profile: name of the profile that it was trained with.
        out: folder of the bundle; must not exist.
    """
    snapshot = Snapshot.open(Path(parts.table))
    towers, model, calibration = map(Path, (parts.towers, parts.model, parts.calibration))
    placed = {
        "image_tower": towers / IMAGE_FOLDER,
        "text_tower": towers / TEXT_FOLDER,
        "heads": model / "heads",
        "ngram": model / "ngram",
        "behaviour": model / "behaviour",
        "ensemble": calibration / "ensemble.json",
        "thresholds": calibration / "thresholds.json",
    }
    for optional in ("reference", "prefilter"):
        path = calibration / f"{optional}.json"
        if path.is_file():
            placed[optional] = path
    description = bundles.Description(
        policies=snapshot.policy_ids,
        profile=profile,
        inputs=bundles.Inputs(snapshot=snapshot.digest, **inputs),
    )
    return bundles.build(Path(out), placed, description).digest
