"""A whole training run judged: the pipeline's own figures as rows of a benchmark."""

import json
from pathlib import Path
from typing import Any

from components.home import Home
from moderation.settings import Settings
from pipelines.parameters import Choices
from tidegate.training import run

EVERYTHING = "all rows"
ENSEMBLE = "ensemble"


def train_and_judge(choices: Choices, config: Settings) -> dict[str, Any]:
    """Run the training pipeline of `config`'s home and return the figures of its evaluation."""
    done = run(choices, config)
    folder = Home(config.home).reports / done.outputs["digest"]
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return found


def rows_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per policy, slice and score: average precision with its interval, and the lead over it."""
    rows = []
    for policy, found in figures["policies"].items():
        whole = {"slice": EVERYTHING, **found}
        for part in [whole, *found["slices"]]:
            leads = part.get("against", {})
            for score, figure in part["average_precision"].items():
                if not figure["rows"]:  # a modality that the data lacks
                    continue
                rows.append(_row(policy, part["slice"], score, figure, leads.get(score)))
    return rows


def figure_of(rows: list[dict[str, Any]], policy: str, part: str, score: str) -> dict[str, Any]:
    """Return the row of one policy, slice and score.

    Raises:
        SystemExit: if the run did not judge it: what cannot be measured is no result.
    """
    for row in rows:
        if (row["policy"], row["slice"], row["score"]) == (policy, part, score):
            return row
    raise SystemExit(f"the run gave no figure for {policy}, {part}, {score}")


def _row(
    policy: str, part: str, score: str, figure: dict[str, Any], lead: dict[str, Any] | None
) -> dict[str, Any]:
    row = {
        "policy": policy,
        "slice": part,
        "score": score,
        "AP": figure["value"],
        "95 % interval": _interval(figure),
        "positives": figure["positives"],
        "rows": figure["rows"],
        "prevalence": f"{figure['prevalence']:.4%}" if figure["prevalence"] is not None else "-",
    }
    if lead:
        value = "-" if lead["value"] is None else f"{lead['value']:+.4f}"
        row["ensemble's lead"] = f"{value} ({_interval(lead)}): {lead['verdict']}"
    return row


def _interval(figure: dict[str, Any]) -> str:
    if figure["low"] is None or figure["high"] is None:
        return "-"
    return f"{figure['low']:.3f} to {figure['high']:.3f}"


def home_of(name: str) -> Path:
    """Return the folder that a benchmark keeps its state in; a second run reuses it."""
    return Path("build/bench-home") / name
