"""Whether every group is treated alike: found violations and flagged innocents by slice, beside the champion's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moderation.evaluation import page
from moderation.gates.evidence import Evidence, ScoredSet
from moderation.pack.curves import missing
from moderation.pack.decided import Flags, held_NP
from moderation.pack.record import CheckRecord, PackRecord
from moderation.pack.words import STATES, clipped, figure

_WORST_FIRST = ("fail", "no_data", "not_certified", "pass")
_FOUND, _FLAGGED, _COMBINED = "true_positive_gap", "false_positive_gap", "intersections_found"

_MAX_COMBINATIONS = 12

GapFacts = Mapping[str, Any]


@dataclass(frozen=True)
class Group:
    """One slice value under one policy; a share is None where there is nothing to take it of."""

    name: str
    rows: int
    violations: int
    found: float | None
    found_before: float | None
    flagged: float | None
    flagged_before: float | None


def groups_of(found: ScoredSet, column: int) -> Iterator[Group]:
    """Yield every slice value of a set under one policy, the whole set first."""
    truth_N = found.truth_NP[:, column]
    mine_N = held_NP(found.candidate, found.policies)[:, column]
    other_N = None
    if found.champion is not None:
        other_N = held_NP(found.champion, found.policies)[:, column]

    def group(name: str, rows_N: Flags) -> Group:
        bad_N, fine_N = rows_N & (truth_N == 1), rows_N & (truth_N == 0)
        shares = [
            _share(flags_N, of_N) for of_N in (bad_N, fine_N) for flags_N in (mine_N, other_N)
        ]
        return Group(name, int((bad_N | fine_N).sum()), int(bad_N.sum()), *shares)

    yield group("all", np.ones(found.num_rows, bool))
    for name, values_N in found.slices.items():
        for value in sorted(set(values_N.tolist()) - {""}):
            yield group(f"{name}={value}", values_N == value)


def groups(record: PackRecord, evidence: Evidence, *, max_policies: int, max_rows: int) -> str:
    """Return one table per policy: the groups that stand out in gates first, then by how little is found."""
    golden = evidence.sets.get("golden")
    if golden is None:
        return missing(evidence, "golden")
    states = _states(record)
    gaps = {measure: _gaps(record, measure) for measure in (_FOUND, _FLAGGED)}
    blocks = []
    for column, policy in enumerate(evidence.policies[:max_policies]):
        whole, *parts = groups_of(golden, column)
        parts.sort(key=lambda one: _order(states.get((policy, one.name)), one))
        rows = [
            _row(one, policy, states.get((policy, one.name), ""), gaps)
            for one in [whole, *parts[:max_rows]]
        ]
        left = len(parts) - max_rows
        rest = f"<p class=soft>{left} more groups were left out to keep the page small.</p>"
        heads = [
            "group",
            "gates",
            "#violations",
            "0 to 1",
            "#found",
            "#champion finds",
            "#gap",
        ]
        heads += ["#innocents", "#flagged", "#champion flags", "#gap"]
        blocks.append(
            f"<h3>{page.escape(policy)}</h3>{page.table(heads, rows, own_row=0)}"
            + (rest if left > 0 else "")
        )
    return _INTRO + "".join(blocks) + _combinations(record, min(max_rows, _MAX_COMBINATIONS))


_INTRO = (
    "<p>Golden listings by group. <b>Found</b>: violations that are sent to review or stronger. <b>Flagged</b>: "
    "innocent listings that are. <b>Gap</b>: the difference from all other groups at one mix of evasive and plain "
    "listings, with its range, and how many violations or innocents it needs where there are too few to tell. "
    "<b>Gates</b>: the worst verdict on this group. A group whose dot lies far left of the others is protected "
    "worse.</p>"
    '<p class="legend soft"><span class="dot"></span> candidate <span class="dot ring"></span> champion</p>'
)


def _share(flags_N: Flags | None, of_N: Flags) -> float | None:
    return None if flags_N is None or not of_N.any() else float(flags_N[of_N].mean())


def _states(record: PackRecord) -> dict[tuple[str, str], str]:
    """Return the worst state of each policy and slice value that gates look at apart."""
    states: dict[tuple[str, str], str] = {}
    for one in record.gates:
        if one.gate.set != "golden":
            continue
        for check in one.checks:
            policy, name = _about(check)
            known = states.get((policy, name), "pass")
            states[policy, name] = min(known, check.state, key=_WORST_FIRST.index)
    return states


def _about(check: CheckRecord) -> tuple[str, str]:
    """Return policy and slice value; of a whole slice, the value that is furthest from the others."""
    policy, _, name = check.of.partition(" · ")
    if "worst" in check.detail and "=" not in name:
        name = f"{name}={check.detail['worst']}"
    return policy, name


def _gaps(record: PackRecord, measure: str) -> dict[tuple[str, str], GapFacts]:
    """Return what a measure of gaps says of each policy and slice value."""
    return {
        (str(check.detail.get("policy")), f"{check.detail.get('slice')}={value}"): facts
        for one in record.measured(measure)
        for check in one.checks
        for value, facts in check.detail.get("values", {}).items()
    }


def _order(state: str | None, one: Group) -> tuple[bool, float]:
    return state != "fail", 2.0 if one.found is None else one.found


def _row(
    one: Group,
    policy: str,
    state: str,
    gaps: Mapping[str, Mapping[tuple[str, str], GapFacts]],
) -> list[str]:
    key, words = (policy, one.name), one.name.replace("=", ": ").replace("_", " ")
    return [
        f"<span class=name>{page.escape(clipped(words, 60))}</span>",
        page.chip(*STATES[state][:2]) if state else "",
        f"{one.violations:,}",
        _dots(one.found, one.found_before),
        page.percent(one.found),
        "" if one.found_before is None else page.percent(one.found_before),
        _gap(gaps[_FOUND].get(key)),
        f"{one.rows - one.violations:,}",
        page.percent(one.flagged),
        "" if one.flagged_before is None else page.percent(one.flagged_before),
        _gap(gaps[_FLAGGED].get(key)),
    ]


def _gap(facts: GapFacts | None) -> str:
    """Return the gap with its range, and how many rows would settle it."""
    if facts is None or facts.get("gap") is None:
        return ""
    bounds = f"{figure(facts.get('low'))} to {figure(facts.get('high'))}"
    needed = facts.get("needed")
    takes = f"<div class=soft>needs {page.number(needed)}</div>" if needed else ""
    return f"{figure(facts['gap'])}<div class=soft>{bounds}</div>{takes}"


def _combinations(record: PackRecord, most: int) -> str:
    """Return the pairs of groups that stand out together."""
    parts = []
    for check in (check for one in record.measured(_COMBINED) for check in one.checks):
        scanned, small = check.detail.get("scanned", 0), check.detail.get("too_small", 0)
        if not scanned:
            continue
        found = check.detail.get("found", [])
        rows = [
            [
                page.escape(clipped(f"{facts.get('policy')} in {facts.get('of')}", 120)),
                page.escape(facts.get("what")),
                page.percent(facts.get("rate")),
                page.percent(facts.get("others")),
                page.escape(facts.get("rows")),
            ]
            for facts in found[:most]
        ]
        parts.append(
            f"<h3>Combinations of two groups</h3><p>{len(found)} of {scanned:,} stand out; {small:,} more are "
            f"too small to look at. {'The rest is in judgement.json.' if len(found) > most else ''}</p>"
        )
        if rows:
            parts.append(page.table(["where", "it", "#there", "#elsewhere", "#rows"], rows))
    return "".join(parts)


def _dots(value: float | None, before: float | None) -> str:
    if value is None:
        return ""
    ring = "" if before is None else f'<circle class="r" cx="{6 + 68 * before:.0f}" cy="8" r="4"/>'
    return (
        '<svg class="dots" width="80" height="16" viewBox="0 0 80 16" aria-hidden="true">'
        f'<path class="g" d="M6 8H74"/>{ring}<circle cx="{6 + 68 * value:.0f}" cy="8" r="4.5"/></svg>'
    )
