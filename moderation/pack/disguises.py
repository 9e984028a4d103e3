"""What each attack does: violations still found, innocents made suspicious, beside the champion; worst first.

R attacked rows, P policies.
"""

import math
from dataclasses import dataclass

import numpy as np

from moderation.evaluation import page
from moderation.gates.evidence import Answers, AttackOutcome, Evidence, Floats, ScoredSet
from moderation.pack.curves import missing
from moderation.pack.decided import Flags, held_from_P
from moderation.pack.words import clipped, figure


@dataclass(frozen=True)
class Side:
    """What one model makes of the attacked rows; None where there is nothing to take a share of."""

    before: float | None
    after: float | None
    kept: float | None
    """Of the violations found before, the share still found."""

    gained: float | None
    """Of the innocents, the share flagged only because of the disguise."""

    shift: float | None
    """Mean change of a violation's probability."""


@dataclass(frozen=True)
class AttackRow:
    """One attack at one severity."""

    outcome: AttackOutcome
    violations: int
    candidate: Side
    champion: Side | None


def attack_rows(golden: ScoredSet, outcomes: tuple[AttackOutcome, ...]) -> list[AttackRow]:
    """Return the attacks, those that hide most first; policies are pooled."""
    rows = []
    for outcome in outcomes:
        truth_RP = golden.truth_NP[outcome.row_R]
        champion = None
        if golden.champion is not None and outcome.champion_RP is not None:
            champion = _side(golden, golden.champion, outcome, outcome.champion_RP)
        mine = _side(golden, golden.candidate, outcome, outcome.candidate_RP)
        rows.append(AttackRow(outcome, int((truth_RP == 1).sum()), mine, champion))
    return sorted(rows, key=lambda row: 2.0 if row.candidate.kept is None else row.candidate.kept)


def disguises(evidence: Evidence, *, max_rows: int) -> str:
    """Return the table of attacks; those without limits, which must succeed, stand apart."""
    golden = evidence.sets.get("golden")
    if golden is None or not evidence.attacks:
        return missing(evidence, "attacks" if golden is not None else "golden")
    rows = attack_rows(golden, evidence.attacks)
    limited = [row for row in rows if math.isfinite(row.outcome.severity)]
    unlimited = [row for row in rows if not math.isfinite(row.outcome.severity)]
    left = len(limited) - max_rows
    parts = [_INTRO, _table(limited[:max_rows])]
    if left > 0:
        parts.append(
            f"<p class=soft>{left} attacks that hide less were left out to keep the page small.</p>"
        )
    if unlimited:
        parts.append(
            "<h3>Without limits</h3><p>An attack that knows the model and may change anything must hide nearly "
            f"everything; if it does not, the attack is broken and the table above means little.</p>{_table(unlimited)}"
        )
    return "".join(parts)


_INTRO = (
    "<p>Each golden listing is disguised as sellers do it, and scored again. <b>Kept</b>: of the violations "
    "found before, the share still found. <b>Innocents hit</b>: honest listings that the very same change alone "
    "makes suspicious. <b>Shift</b>: change of a violation's probability. Strength 1 is what gates judge.</p>"
)


def _table(rows: list[AttackRow]) -> str:
    heads = ["disguise", "kind", "#strength", "#violations", "#found before → after", "#kept"]
    heads += ["#champion keeps", "#innocents hit", "#champion hits", "#shift"]
    cells = []
    for row in rows:
        mine, other, severity = row.candidate, row.champion, row.outcome.severity
        cells.append(
            [
                page.escape(clipped(row.outcome.name.replace("_", " "), 40)),
                page.escape(row.outcome.family.replace("_", " ")),
                f"{severity:g}" if math.isfinite(severity) else "no limit",
                f"{row.violations:,}",
                f"{page.percent(mine.before)} → {page.percent(mine.after)}",
                f"<b>{page.percent(mine.kept)}</b>",
                "" if other is None else page.percent(other.kept),
                page.percent(mine.gained),
                "" if other is None else page.percent(other.gained),
                figure(mine.shift),
            ]
        )
    return page.table(heads, cells)


def _side(golden: ScoredSet, answers: Answers, outcome: AttackOutcome, after_RP: Floats) -> Side:
    truth_RP = golden.truth_NP[outcome.row_R]
    before_RP = answers.probability_NP[outcome.row_R]
    limit_P = held_from_P(answers, golden.policies)
    bad_RP: Flags = truth_RP == 1
    held_RP: Flags = before_RP >= limit_P
    still_RP: Flags = after_RP >= limit_P
    innocent_R: Flags = np.asarray((truth_RP == 0).all(axis=1))
    newly_R: Flags = np.asarray(still_RP.any(axis=1) & ~held_RP.any(axis=1))

    def mean(values: Floats) -> float | None:
        return float(values.mean()) if len(values) else None

    return Side(
        before=mean(held_RP[bad_RP].astype(np.float64)),
        after=mean(still_RP[bad_RP].astype(np.float64)),
        kept=mean(still_RP[bad_RP & held_RP].astype(np.float64)),
        gained=mean(newly_R[innocent_R].astype(np.float64)),
        shift=mean((after_RP - before_RP)[bad_RP]),
    )
