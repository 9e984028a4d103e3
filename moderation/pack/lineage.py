"""The end of the page: what is not certified, where the candidate comes from, and how to take it back."""

from moderation.evaluation import page
from moderation.pack.record import CheckRecord, GateRecord, PackRecord
from moderation.pack.words import clipped, code, measure_words, spread, wanted

UNDO = "undo"
"""The fact that holds the command that takes a release back."""


def unsettled(record: PackRecord) -> list[tuple[GateRecord, CheckRecord]]:
    """Return every check that was neither passed nor failed, those of blocking gates first."""
    found = [
        (one, check)
        for one in record.gates
        for check in one.checks
        if check.state in ("not_certified", "no_data")
    ]
    return sorted(found, key=lambda pair: not pair[0].blocks)


def meanwhile(one: GateRecord) -> str:
    """Return what a gate does while it is not settled."""
    if one.blocks:
        return "keeps it back"
    return "the tier stays closed" if one.gate.uncertified == "cap" else "only noted"


def not_certified(record: PackRecord, *, max_rows: int) -> str:
    """Return what the data at hand cannot show, and how many more it would take."""
    found = unsettled(record)
    if not found:
        return "<p>Every figure that a gate asks for was settled.</p>"
    rows = [
        [
            f"<code>{page.escape(one.gate.id)}</code><div class=soft>"
            f"{page.escape(clipped(check.of, 80))}</div>",
            f"{page.escape(measure_words(one.gate.measure))}<div class=soft>must be "
            f"{page.escape(wanted(one.gate))}</div>",
            page.escape(spread(check)),
            f"{check.rows:,}",
            page.escape(" and ".join(check.needed) or "no number is known"),
            page.escape(meanwhile(one)),
        ]
        for one, check in found[:max_rows]
    ]
    left = len(found) - max_rows
    rest = f"<p class=soft>{left} more in judgement.json.</p>" if left > 0 else ""
    heads = ["gate", "figure", "so far", "#rows", "it would take", "meanwhile"]
    return (
        "<p>Not certified is not the same as bad: there are too few listings to tell. The numbers say how many "
        "would settle the figure four times out of five, if it stays as it is.</p>"
        f"{page.table(heads, rows)}{rest}"
    )


def lineage(record: PackRecord) -> str:
    """Return everything that the verdict rests on, by digest."""
    facts = {
        "candidate": record.candidate,
        "champion": record.champion or "none",
        "release contract": f"{record.contract_version} {record.contract_digest}",
        **{
            f"set {name}": f"{one.digest} ({one.rows:,} rows of {one.groups:,} sellers and campaigns)"
            for name, one in record.sets.items()
        },
        **{name: value for name, value in record.facts.items() if name != UNDO},
    }
    rows = [
        [page.escape(name.replace("_", " ")), code(clipped(value))] for name, value in facts.items()
    ]
    notes = "".join(f"<li>{page.escape(clipped(note, 600))}</li>" for note in record.notes)
    return page.table(["what", "value"], rows) + (
        f"<h3>Notes</h3><ul>{notes}</ul>" if notes else ""
    )


def undo(record: PackRecord) -> str:
    """Return how a release of this candidate is taken back."""
    command = undo_command(record)
    if record.state == "blocked":
        said = "Nothing to undo: a blocked candidate answers no request."
        said += " Were it released by hand:" if command else ""
    elif command:
        said = (
            "If it misbehaves after its release, this makes the champion the one that is released again; "
            "what is served changes when the predictor is started again:"
        )
    else:
        said = "This is the first release: there is no earlier one to go back to."
    return f"<p>{said}</p>" + (f"<pre>{page.escape(command)}</pre>" if command else "")


def undo_command(record: PackRecord) -> str:
    """Return the command that takes a release back; empty where nothing came before it."""
    given = record.facts.get(UNDO)
    if given is not None or record.champion is None:
        return given or ""
    return f"tidegate gates promote {record.champion}"
