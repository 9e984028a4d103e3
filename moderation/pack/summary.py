"""The verdict as a short Markdown text, for places that show Markdown but no page."""

from moderation.pack.record import PackRecord
from moderation.pack.verdict import sentence
from moderation.pack.words import STATES, capped_tiers, markdown, short, spread, wanted, why_not

MAX_ROWS = 40


def summary(record: PackRecord) -> str:
    """Return state, reasons and a table of the gates that block."""
    lines = [
        f"# {record.state.capitalize()}",
        "",
        markdown(sentence(record)),
        "",
        f"Candidate `{short(record.candidate)}`, "
        + (f"champion `{short(record.champion)}`" if record.champion else "first release")
        + f", contract {markdown(record.contract_version)}, profile {markdown(record.profile)}.",
        "",
    ]
    lines += [f"- {markdown(note)}" for note in record.notes]
    lines += [
        f"- {markdown(', '.join(policies))}: {tier} and stronger tiers stay closed; not certified"
        for tier, policies in capped_tiers(record).items()
    ]
    if record.blocking:
        lines += ["", "| gate | state | why |", "|---|---|---|"]
        lines += [
            f"| {markdown(one.gate.id)} | {STATES[one.state][0]} | {markdown(one.gate.why)} "
            f"**{markdown(why_not(one))}** |"
            for one in record.blocking[:MAX_ROWS]
        ]
        more = len(record.blocking) - MAX_ROWS
        lines += ["", f"and {more} more in judgement.json"] if more > 0 else []
    else:
        lines += ["", "| gate | worst figure | must be |", "|---|---|---|"]
        lines += [
            f"| {markdown(one.gate.id)} | {markdown(spread(one.checks[0]))} | {markdown(wanted(one.gate))} |"
            for one in record.gates[:MAX_ROWS]
        ]
    return "\n".join(lines) + "\n"
