"""The table of gates: state, worst figure with its interval against the limit, and what it would take to settle it."""

from collections.abc import Sequence

from moderation.evaluation import page
from moderation.pack.charts import against_limit
from moderation.pack.record import CheckRecord, GateRecord, PackRecord
from moderation.pack.words import SETS, STATES, clipped, measure_words, spread, wanted

_HEADS = ("State", "What must hold", "Worst figure, and its range", "To settle it")


def gates(record: PackRecord, *, max_checks: int) -> str:
    """Return every gate in three tables: what keeps the candidate back, what is only noted, what passed.

    Args:
        record: the judgement.
        max_checks: figures of one gate that are listed below it, worst first; 0 lists none.
    """
    noted = [one for one in record.gates if not one.blocks and one.state != "pass"]
    passed = [one for one in record.gates if one.state == "pass"]
    parts = {
        "What keeps it back": record.blocking,
        "Not passed, but only noted": noted,
        "Passed": passed,
    }
    tables = [
        f"<h3>{title} ({len(found)})</h3>{_table(found, max_checks)}"
        for title, found in parts.items()
        if found
    ]
    sure = sorted({f"{one.gate.confidence:.0%}" for one in record.gates})
    return _LEGEND.format(sure=page.escape(" or ".join(sure))) + "".join(tables)


_LEGEND = (
    '<p class="legend soft"><svg class="mark good" width="72" height="24" viewBox="0 0 72 24" '
    'aria-hidden="true"><rect x="12" y="2" width="60" height="20"/><path class="l" d="M12 0V24"/>'
    '<path class="b" d="M22 12H60"/><circle cx="41" cy="12" r="4.5"/></svg> '
    "dot: the figure · bar: the range that the data leave open ({sure} sure on each side) · "
    " line: the limit · shaded: the side that is allowed</p>"
)


def _table(found: Sequence[GateRecord], max_checks: int) -> str:
    head = "".join(f"<th>{name}</th>" for name in _HEADS)
    rows = "".join(_row(one) + _more(one, max_checks) for one in found)
    return f'<table class="stack"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _row(one: GateRecord) -> str:
    gate, worst = one.gate, one.checks[0]
    word, kind, _ = STATES[one.state]
    where = SETS[gate.set].split(":")[0]
    about = f"{page.escape(clipped(worst.of))}: " if worst.of else ""
    remark = (
        f"<div class=soft>{page.escape(clipped(worst.remark, 160))}</div>" if worst.remark else ""
    )
    return (
        f'<tr id="gate-{page.escape(gate.id)}"><td>{page.chip(word, kind)}</td>'
        f"<td>{page.escape(gate.why)}<div class=soft><code>{page.escape(gate.id)}</code> "
        f"{page.escape(measure_words(gate.measure))}; {page.escape(where)}</div></td>"
        f"<td>{against_limit(gate, worst)}<div>{about}{page.escape(spread(worst))}</div>"
        f"<div class=soft>must be {page.escape(wanted(gate))}</div>{remark}</td>"
        f'<td class="settle">{page.escape(_settle(worst))}</td></tr>'
    )


def _settle(check: CheckRecord) -> str:
    if check.state == "pass":
        return ""
    if check.needed:
        return " and ".join(check.needed)
    return "" if check.state == "fail" else "no number of rows is known to do"


def _more(one: GateRecord, max_checks: int) -> str:
    if len(one.checks) < 2 or not max_checks:
        return ""
    shown = one.checks[:max_checks]
    rows = [
        [
            page.escape(clipped(check.of, 80)),
            page.chip(*STATES[check.state][:2]),
            against_limit(one.gate, check),
            page.escape(spread(check)),
            f"{check.rows:,}",
            f"{check.positives:,}",
            page.escape(_settle(check)),
        ]
        for check in shown
    ]
    left = len(one.checks) - len(shown)
    rest = f"<p class=soft>{left} more in judgement.json.</p>" if left else ""
    heads = ["about", "state", "", "figure", "#rows", "#violations", "to settle it"]
    return (
        f'<tr class="more"><td colspan="4"><details><summary>all {len(one.checks)} figures of this gate'
        f"</summary>{page.table(heads, rows)}{rest}</details></td></tr>"
    )
