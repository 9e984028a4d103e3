"""The model card as Markdown: what the model is for, how good it is on which data, and what is not known.

Every number comes from the judgement or the evidence; what was not measured says so.

Source:
    Mitchell et al. 2019, "Model Cards for Model Reporting" (the order of the sections).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from moderation.evaluation.page import percent
from moderation.gates.evidence import Evidence, ScoredSet
from moderation.pack.disguises import attack_rows
from moderation.pack.lineage import UNDO, undo_command, unsettled
from moderation.pack.record import GateRecord, PackRecord
from moderation.pack.verdict import sentence
from moderation.pack.words import (
    SETS,
    STATES,
    capped_tiers,
    clipped,
    markdown,
    measure_words,
    short,
    span,
    spread,
    wanted,
)

_MAX_ROWS = 60


def model_card(record: PackRecord, evidence: Evidence) -> str:
    """Return the card of a candidate."""
    parts = {
        "What it is for": _purpose(record),
        "Data it was judged on": _data(evidence),
        "How good it is": _quality(record),
        "Beside the champion": _beside(record),
        "Groups": _groups(record),
        "Disguises": _disguises(evidence),
        "What is not certified": _open(record),
        "Limits": _limits(record),
        "Ethical considerations": _ethics(record),
        "How to contest": _contest(record),
        "Where it comes from": _lineage(record),
    }
    sections = [f"## {title}\n\n{text}\n" for title, text in parts.items()]
    return "\n".join([f"# Model card: {short(record.candidate)}\n", *sections])


def _purpose(record: PackRecord) -> str:
    policies = ", ".join(span(policy) for policy in record.policies)
    return (
        f"**{record.state.capitalize()}.** {markdown(sentence(record))}\n\n"
        "It gives each uploaded listing (title, description, photos, behaviour of the seller) a probability that it "
        f"violates a policy: {policies}. Thresholds turn it into a tier: allow, tag, review, block, suspend.\n\n"
        "Meant for: pre-screening uploads, with people who review and decide appeals. Not meant for: judging persons, "
        "other marketplaces without judging it again on their data, proof of an offence, or policies not named here."
    )


def _data(evidence: Evidence) -> str:
    rows = []
    for name, found in evidence.sets.items():
        for column, policy in enumerate(found.policies):
            known_N = found.truth_NP[:, column] >= 0
            rows.append(
                [
                    markdown(name),
                    markdown(policy),
                    f"{int(known_N.sum()):,}",
                    f"{int((found.truth_NP[:, column] == 1).sum()):,}",
                    percent(_prevalence(found, column)),
                ]
            )
    heads = ["set", "policy", "listings with known truth", "violations", "share of violations"]
    means = [f"- `{name}`: {SETS.get(name, name)}" for name in evidence.sets]
    absent = [
        f"- {markdown(part)} was not taken: {markdown(why)}"
        for part, why in evidence.missing.items()
    ]
    return (
        _table(heads, rows)
        + "\n\nThe share is weighted to real traffic, except on the golden set, which is rich in violations on "
        "purpose. Average precision is lower where violations are rarer.\n\n"
        + "\n".join(means + absent)
    )


def _prevalence(found: ScoredSet, column: int) -> float | None:
    known_N = found.truth_NP[:, column] >= 0
    weight_N = np.ones(found.num_rows) if found.name == "golden" else found.weight
    total = float(weight_N[known_N].sum())
    right = float(weight_N[found.truth_NP[:, column] == 1].sum())
    return right / total if total else None


def _quality(record: PackRecord) -> str:
    whole = [
        one
        for one in record.gates
        if one.gate.versus == "limit" and not one.gate.slices and one.gate.set != "attacks"
    ]
    return _checks(whole) + "\n\nRanges are one-sided bounds at the confidence of the gate."


def _beside(record: PackRecord) -> str:
    if record.champion is None:
        return "This is the first release: there is no champion, so nothing was compared."
    compared = [one for one in record.gates if one.gate.versus == "champion"]
    said = f"Candidate minus champion `{short(record.champion)}`, on the same rows.\n\n"
    return said + _checks(compared)


def _groups(record: PackRecord) -> str:
    sliced = [one for one in record.gates if one.gate.slices]
    return "The worst group of each gate first; all of them are in judgement.json.\n\n" + _checks(
        sliced, most=4
    )


def _checks(gates: Sequence[GateRecord], *, most: int = _MAX_ROWS) -> str:
    rows = [
        [
            markdown(clipped(measure_words(one.gate.measure))),
            markdown(one.gate.set),
            markdown(one.gate.tier or ""),
            markdown(clipped(check.of, 80)),
            markdown(spread(check)),
            markdown(wanted(one.gate)),
            STATES[check.state][0],
        ]
        for one in gates
        for check in one.checks[:most]
    ]
    heads = ["figure", "set", "tier", "about", "value and range", "must be", "state"]
    return _table(heads, rows)


def _disguises(evidence: Evidence) -> str:
    found = [row for limited in (True, False) for row in attack_rows(evidence, limited=limited)]
    if not found:
        return f"Not measured: {markdown(evidence.missing.get('attacks', 'no attack is in the evidence'))}"
    rows = [
        [
            markdown(row["attack"]),
            markdown(row["family"]),
            markdown(row["severity"]),
            percent(row["recall_before"]),
            percent(row["recall_after"]),
            percent(row["gained"]),
        ]
        for row in found[:_MAX_ROWS]
    ]
    heads = ["attack", "kind", "strength", "found before", "found after", "innocents hit"]
    return _table(heads, rows)


def _open(record: PackRecord) -> str:
    found = unsettled(record)
    if not found:
        return "Every figure that a gate asks for was settled."
    rows = [
        [
            markdown(one.gate.id),
            markdown(clipped(check.of, 80)),
            f"{check.rows:,}",
            f"{check.positives:,}",
            markdown(" and ".join(check.needed) or "no number is known"),
        ]
        for one, check in found[:_MAX_ROWS]
    ]
    left = len(found) - _MAX_ROWS
    more = f"\n\n{left} more in judgement.json." if left > 0 else ""
    return _table(["gate", "about", "rows", "violations", "it would take"], rows) + more


def _limits(record: PackRecord) -> str:
    lines = [
        f"- {markdown(', '.join(policies))}: `{tier}` and stronger tiers are closed, because their precision is not "
        "certified."
        for tier, policies in capped_tiers(record).items()
    ]
    lines += [f"- {markdown(note)}" for note in record.notes]
    lines += [
        "- Truth is what reviewers and appeals established; where they err, every figure here errs with them.",
        "- Figures hold for listings like those of the sets above; new kinds of violations are not among them.",
    ]
    return "\n".join(lines)


def _ethics(record: PackRecord) -> str:
    false = [
        f"- {markdown(check.of)}: {markdown(spread(check))}, {STATES[check.state][0]}"
        for one in record.measured("false_positive_gap")
        for check in one.checks[:3]
    ]
    lines = [
        "- A false flag costs an honest seller time and sales; a miss harms buyers. Tiers open only where their "
        "precision is shown by a lower bound, and fall to human review where it is not.",
        "- Groups that language, region or kind of seller set apart may be treated unequally. The largest gaps in "
        "flagged innocents:",
        *(["  " + line for line in false] or ["  - not measured by any gate"]),
        "- Sellers are shown stable reason codes, never the evidence that would teach evasion.",
    ]
    return "\n".join(lines)


def _contest(record: PackRecord) -> str:
    how = record.facts.get("contest")
    return (
        markdown(how)
        if how
        else (
            "Every decision carries a trace id and reason codes. A seller may appeal with the trace id; a reviewer "
            "sees the evidence and may reverse the decision, which undoes its enforcement and becomes truth for the "
            "next training."
        )
    )


def _lineage(record: PackRecord) -> str:
    rows = [["candidate", f"`{record.candidate}`"], ["champion", f"`{record.champion or 'none'}`"]]
    rows.append(
        ["release contract", f"{markdown(record.contract_version)} `{record.contract_digest}`"]
    )
    rows.append(["profile", markdown(f"{record.profile} {record.says}".strip())])
    rows += [[f"set {markdown(name)}", f"`{one.digest}`"] for name, one in record.sets.items()]
    rows += [
        [markdown(name.replace("_", " ")), markdown(clipped(value))]
        for name, value in record.facts.items()
        if name != UNDO
    ]
    command = undo_command(record)
    back = f"\n\nTo take a release back: {span(command)}" if command else ""
    return _table(["what", "value"], rows) + back


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])
