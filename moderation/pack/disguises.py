"""What each attack does: violations still found, innocents made suspicious, beside the champion; worst first."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moderation.evaluation import page
from moderation.gates.evidence import Evidence
from moderation.gates.withstanding import candidate_and_champion, table_row
from moderation.pack.curves import missing
from moderation.pack.words import clipped, figure

Row = Mapping[str, Any]


def attack_rows(evidence: Evidence, *, limited: bool) -> list[Row]:
    """Return one line per attack, those that hide most first.

    Args:
        evidence: its golden set was attacked.
        limited: False gives the attacks of unlimited strength instead.
    """
    golden = evidence.sets.get("golden")
    if golden is None:
        return []
    rows = [
        table_row(*candidate_and_champion(golden, outcome))
        for outcome in evidence.attacks
        if math.isfinite(outcome.severity) == limited
    ]
    return sorted(rows, key=lambda row: 2.0 if row["kept"] is None else row["kept"])


def disguises(evidence: Evidence, *, max_rows: int) -> str:
    """Return the table of attacks; those without limits, which must succeed, stand apart."""
    rows, unlimited = (attack_rows(evidence, limited=limited) for limited in (True, False))
    if not rows and not unlimited:
        return missing(evidence, "attacks" if "golden" in evidence.sets else "golden")
    parts = [_INTRO, _table(rows[:max_rows])]
    left = len(rows) - max_rows
    if left > 0:
        parts.append(
            f"<p class=soft>{left} attacks that hide less were left out to keep the page small.</p>"
        )
    if unlimited:
        parts.append(
            "<h3>Without limits</h3><p>An attack that knows the model and may change anything must hide nearly "
            "everything; if it does not, the attack is broken and the table above means little.</p>"
            f"{_table(unlimited)}"
        )
    return "".join(parts)


_INTRO = (
    "<p>Each golden listing is disguised as sellers do it, and scored again. <b>Kept</b>: of the violations "
    "found before, the share still found. <b>Innocents hit</b>: honest listings that the very same change alone "
    "makes suspicious. <b>Shift</b>: change of a violation's probability. Strength 1 is what gates judge; a white box "
    "attack knows the model from inside.</p>"
)


def _table(rows: Sequence[Row]) -> str:
    heads = ["disguise", "kind", "#strength", "#violations", "#found before → after", "#kept"]
    heads += ["#champion keeps", "#innocents hit", "#champion hits", "#shift"]
    cells = []
    for row in rows:
        champion, severity = row["champion"], row["severity"]
        cells.append(
            [
                page.escape(clipped(row["attack"].replace("_", " "), 40)),
                page.escape(row["family"].replace("_", " ")),
                page.escape(severity if isinstance(severity, str) else f"{severity:g}"),
                f"{row['violations']:,}",
                f"{page.percent(row['recall_before'])} → {page.percent(row['recall_after'])}",
                f"<b>{page.percent(row['kept'])}</b>",
                "" if champion is None else page.percent(champion["kept"]),
                page.percent(row["gained"]),
                "" if champion is None else page.percent(champion["gained"]),
                figure(row["shift"]),
            ]
        )
    return page.table(heads, cells)
