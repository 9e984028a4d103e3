"""What every peer does with a request: a listing in JSON to probabilities, by the scorer of the bundle."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moderation.scoring import Scorer, ScoringItem

ROOT = Path(__file__).parents[3]


def load_scorer() -> Scorer:
    """Return the scorer that `build/peers/served.json` names: workers of some peers get no arguments of ours."""
    served = json.loads((ROOT / "build/peers/served.json").read_text())
    return Scorer.load(Path(served["bundle"]), served["num_threads"])


def read_listing(content: dict[str, Any]) -> ScoringItem:
    """Return a listing of JSON."""
    images = tuple(base64.b64decode(image) for image in content["images"])
    return ScoringItem(content["title"], "", images)


def probabilities(scorer: Scorer, items: Sequence[ScoringItem]) -> list[list[float]]:
    """Return the probabilities of a batch, prepared and scored as the predictor does it."""
    prepared = list(scorer.image_encoder.each(scorer.prepare, items))
    found: list[list[float]] = scorer.score_prepared(prepared).probability_NP.tolist()
    return found
