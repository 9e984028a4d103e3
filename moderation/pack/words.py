"""Plain words for what a pack shows, and how its figures are written."""

import math
import re
from typing import Final

from moderation.evaluation.page import escape
from moderation.pack.record import CheckRecord, GateRecord, PackRecord
from moderation.release import Gate

STATES: Final = {
    "pass": ("passed", "good", "the data show that it holds"),
    "fail": ("failed", "bad", "the data show that it does not hold"),
    "not_certified": ("not certified", "warn", "the data show neither: there are too few of them"),
    "no_data": ("no data", "warn", "the figure could not be taken at all"),
}
"""State -> word, colour, meaning."""

_MEASURES: Final = {
    "leaked_items": "items of the golden set among the rows it was trained on",
    "average_precision": "ranking quality (average precision: 1 is perfect)",
    "mean_average_precision": "ranking quality, mean over policies (average precision: 1 is perfect)",
    "recall_at_precision": "share of violations found while as few innocents are hit as the tier demands",
    "worst_recall_kept": "share of found violations still found, under the worst disguise",
    "worst_recall_kept_by_policy": "share of one policy's found violations still found, under the worst disguise",
    "mean_recall_kept": "share of found violations still found, mean over disguises",
    "worst_false_positives_gained": "share of innocents that a disguise alone makes suspicious, worst disguise",
    "mean_false_positives_gained": "share of innocents that a disguise alone makes suspicious, mean",
    "white_box_recall": "violations found under an unlimited attack that knows the model (must fall)",
    "true_positive_gap": "how much fewer violations are found in a group than in the others",
    "false_positive_gap": "how many more innocents are flagged in a group than in the others",
    "intersections_found": "combinations of two groups that stand out",
    "calibration_slope": "confidence of the scores (1 is right, below 1 overconfident)",
    "calibration_shift": "how far scores are too low or too high on the whole (0 is right)",
    "predicted_over_observed": "violations predicted for each one counted (1 is right)",
    "predicted_over_observed_flagged": "violations predicted for each one counted, among flagged listings",
    "tier_precision": "share of a tier's decisions that are right",
    "unreachable_tiers": "tiers that no listing could ever reach",
    "reviews_per_day": "listings sent to reviewers in a day",
    "prefilter_recall": "share of violations that the behaviour prefilter does not let pass unread",
    "decisions_stronger": "share of yesterday's uploads that would now be treated more strictly",
    "decisions_weaker": "share of what was held yesterday that would now be let through",
    "latency_p99_ms": "milliseconds within which 99 of 100 answers come",
    "latency_p99_ratio": "how many times as slow as the champion, in the slowest 1 %",
    "bundle_mib": "size of the model on disk, MiB",
}

SETS: Final = {
    "golden": "the golden set: frozen listings with reviewed truth, rich in hard cases",
    "traffic": "listings that it never saw, weighted to stand for real traffic",
    "fresh": "truth that arrived after both models were trained",
    "attacks": "golden listings in disguise",
    "replay": "recorded traffic, decided again",
    "costs": "candidate and champion timed in turn",
}

_COMPARED: Final = {"at_least": "at least", "at_most": "at most", "more_than": "more than"}

MAX_TEXT: Final = 320
"""Characters of one reason on the page; the whole of it is in judgement.json."""

_MARKDOWN: Final = re.compile(r"([\\`*_\[\]|~<>$])")


def measure_words(measure: str) -> str:
    """Return what a measure is, in plain words; its own name where there are none.

    >>> measure_words("blue_moons")
    'blue moons'
    """
    return _MEASURES.get(measure, measure.replace("_", " "))


def wanted(gate: Gate) -> str:
    """Return what a gate asks for, such as `at least 0.7`."""
    less = gate.versus == "champion" and gate.measure != "latency_p99_ratio"
    return f"{_COMPARED[gate.comparator]} {figure(gate.limit)}" + (
        " beside the champion's" if less else ""
    )


def figure(value: float | None) -> str:
    """Return a number with as many digits as a person needs.

    >>> figure(0.98765), figure(-0.0004), figure(1234.5), figure(3.0), figure(None)
    ('0.988', '-0.0004', '1,234', '3', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return "n/a"
    if value == round(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.3f}" if abs(value) >= 0.001 else f"{value:.1g}"


def spread(check: CheckRecord) -> str:
    """Return a figure with its bounds, or why there is none; an unbounded side says so.

    >>> from moderation.pack.record import CheckRecord
    >>> spread(CheckRecord(of="", state="pass", reason="", value=.5, low=.4, high=None, rows=9, positives=0, needed=()))
    '0.500 (0.400 to unknown)'
    """
    if check.value is None:
        return clipped(check.why_missing or "not measured")
    if check.low is not None and check.low == check.high:
        return figure(check.value)
    bounds = ["unknown" if bound is None else figure(bound) for bound in (check.low, check.high)]
    return f"{figure(check.value)} ({bounds[0]} to {bounds[1]})"


def clipped(text: str, limit: int = MAX_TEXT) -> str:
    """Return a text of at most `limit` characters.

    >>> clipped("abcdef", 4)
    'abc…'
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def why_not(one: GateRecord) -> str:
    """Return one sentence on what keeps a gate from passing, about its worst check; empty where it passes."""
    check = one.checks[0]
    about = f"{check.of}: " if check.of else ""
    if one.state == "pass":
        return ""
    said = [f"{about}{spread(check)}, must be {wanted(one.gate)}"]
    said += [clipped(check.remark, 160)] if check.remark else []
    said += [f"it would take {' and '.join(check.needed)}"] if check.needed else []
    more = sum(other.state == one.state for other in one.checks) - 1
    said += [f"and {more} more like it"] if more else []
    return "; ".join(clipped(part) for part in said)


def capped_tiers(record: PackRecord) -> dict[str, list[str]]:
    """Return tier -> policies for which it and everything stronger stay closed."""
    closed: dict[str, list[str]] = {}
    for policy, tier in record.caps.items():
        closed.setdefault(tier, []).append(policy or "every policy")
    return closed


def short(digest: str) -> str:
    """Return enough of a digest to tell it from others."""
    return digest[:12]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "gate"), counted(1200, "gate")
    ('1 gate', '1,200 gates')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def markdown(value: object) -> str:
    r"""Return a value as one line of Markdown text that cannot become markup or leave its table cell.

    >>> print(markdown("a|b <b>_x_"))
    a\|b \<b\>\_x\_
    """
    return _MARKDOWN.sub(r"\\\1", " ".join(str(value).split()))


def span(value: object) -> str:
    """Return a value as one line of code in Markdown.

    >>> span("a`b  c")
    '`ab c`'
    """
    return f"`{' '.join(str(value).replace('`', '').split())}`"


def code(value: object) -> str:
    """Return a value as a piece of code in HTML."""
    return f"<code>{escape(value)}</code>"
