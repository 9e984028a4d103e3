"""The top of the page: proposed or blocked, why in one sentence, and what a reader must know before reading on."""

from moderation.evaluation import page
from moderation.pack.record import GateRecord, PackRecord
from moderation.pack.words import (
    STATES,
    capped_tiers,
    clipped,
    code,
    counted,
    measure_words,
    short,
    spread,
    why_not,
)

_MAX_REASONS = 6

PARTS = {
    "gates": "Gates",
    "why": "Curves",
    "groups": "Groups",
    "attacks": "Disguises",
    "changes": "Changed decisions",
    "open": "Not certified",
    "lineage": "Where it comes from",
    "undo": "Undo",
}
"""Anchor -> title of each part, in the order of the page."""


def head(record: PackRecord) -> str:
    """Return the verdict, its reasons, notices and the legend."""
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in PARTS.items())
    is_proposed = record.state == "proposed"
    word, kind = ("Proposed", "good") if is_proposed else ("Blocked", "bad")
    beside = f"beside champion {code(short(record.champion))}" if record.champion else ""
    return (
        f'<header class="verdict {kind}"><h1>{word}</h1><p>{page.escape(sentence(record))}</p></header>'
        f"<p class=soft>Candidate {code(short(record.candidate))} {beside} · release contract "
        f"{page.escape(record.contract_version)} · profile {page.escape(record.profile)}</p>"
        f"{_notices(record)}{_reasons(record)}{_tiles(record)}{_open(record)}<nav>{links}</nav>"
    )


def sentence(record: PackRecord) -> str:
    """Return the verdict with its reason in one sentence, as plain text."""
    total = counted(len(record.gates), "gate")
    if record.state == "blocked":
        failed = sum(one.state == "fail" for one in record.blocking)
        unsettled = len(record.blocking) - failed
        what = [f"{failed} failed"] if failed else []
        what += [f"{unsettled} could not be settled"] if unsettled else []
        if not record.gates:
            return "This candidate is not released: no gate was judged, and nothing checked is not passed."
        return (
            f"This candidate is not released: {len(record.blocking)} of {total} "
            f"{'keeps' if len(record.blocking) == 1 else 'keep'} it back ({', '.join(what)})."
        )
    passed = sum(one.state == "pass" for one in record.gates)
    said = f"This candidate may be released once a person accepts it: {passed} of {total} passed"
    rest = len(record.gates) - passed
    said += f", {rest} could not be settled and were only noted" if rest else ""
    gain = next((one for one in record.gates if one.gate.id == record.objective), None)
    if gain is not None and gain.state == "pass":
        terms = measure_words(gain.gate.measure).split(" (")[0]
        said += f"; it beats the champion by {spread(gain.checks[0])} in {terms}"
    return said + "."


def _reasons(record: PackRecord) -> str:
    if not record.blocking:
        return ""
    items = [f"<li>{_reason(one)}</li>" for one in record.blocking[:_MAX_REASONS]]
    more = len(record.blocking) - _MAX_REASONS
    items += [f'<li class=soft>and <a href="#gates">{more} more</a></li>'] if more > 0 else []
    return f"<ul class=reasons>{''.join(items)}</ul>"


def _reason(one: GateRecord) -> str:
    word, kind, _ = STATES[one.state]
    return (
        f"{page.chip(word, kind)} <b>{page.escape(one.gate.why)}</b> "
        f"<span class=soft>{page.escape(why_not(one))}</span>"
    )


def _notices(record: PackRecord) -> str:
    notices = []
    if record.says:
        notices.append(
            f"<b>Judged under the profile {page.escape(record.profile)}:</b> {page.escape(record.says)}."
        )
    if record.champion is None:
        notices.append(
            "<b>First release.</b> There is no champion to compare with: only absolute gates were judged."
        )
    return "".join(f'<p class="notice">{notice}</p>' for notice in notices)


def _open(record: PackRecord) -> str:
    """Return which tiers stay closed and which parts were not looked at."""
    notices = [
        f"<b>{page.escape(', '.join(policies))}: {page.escape(tier)} and everything stronger stay closed.</b> That "
        "such decisions are right often enough is not shown; these listings go to a weaker tier."
        for tier, policies in capped_tiers(record).items()
    ]
    if record.missing:
        absent = "; ".join(
            f"<b>{page.escape(part)}</b>: {page.escape(clipped(why))}"
            for part, why in record.missing.items()
        )
        notices.append(f"Not taken, so not looked at: {absent}.")
    return "".join(f'<p class="notice">{notice}</p>' for notice in notices)


def _tiles(record: PackRecord) -> str:
    counts = {state: sum(one.state == state for one in record.gates) for state in STATES}
    tiles = [
        page.tile(
            word,
            f'<span class="{kind if counts[state] else "mute"}">{counts[state]}</span>',
            f"<span class=soft>{meaning}</span>",
        )
        for state, (word, kind, meaning) in STATES.items()
    ]
    return (
        f'<div class="tiles">{"".join(tiles)}</div>'
        "<p class=soft>A <b>gate</b> is one test that may keep a candidate back. It passes only if the data "
        "<i>show</i> that it holds: even the unfavourable end of the range must be on the right side of the "
        "limit. A gate that cannot be settled counts as not passed.</p>"
    )
