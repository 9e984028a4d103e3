"""Judgement and evidence -> one folder: the page, the judgement for machines, the model card and the summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moderation.evaluation import page
from moderation.evaluation.report import MAX_HTML_BYTES
from moderation.gates.evidence import Evidence
from moderation.gates.judging import Judgement
from moderation.pack.card import model_card
from moderation.pack.changes import Thumbnail, changes, changes_of, data_url
from moderation.pack.curves import curves
from moderation.pack.decided import as_served
from moderation.pack.disguises import disguises
from moderation.pack.gate_table import gates
from moderation.pack.groups import groups
from moderation.pack.lineage import lineage, not_certified, undo
from moderation.pack.record import PackRecord, record_of, save_record
from moderation.pack.style import STYLE
from moderation.pack.summary import summary
from moderation.pack.verdict import PARTS, head
from moderation.release import ReleaseContract


@dataclass(frozen=True)
class Pack:
    """Where the parts of a pack lie."""

    index: Path
    judgement: Path
    card: Path
    summary: Path


@dataclass(frozen=True)
class Detail:
    """How much a page shows."""

    thumbnails: int
    changes: int
    checks: int
    open: int
    groups: int
    attacks: int
    policies: int


_DETAILS: Final = (
    Detail(thumbnails=24, changes=12, checks=40, open=60, groups=40, attacks=60, policies=64),
    Detail(thumbnails=24, changes=12, checks=12, open=30, groups=25, attacks=40, policies=16),
    Detail(thumbnails=8, changes=12, checks=8, open=20, groups=25, attacks=40, policies=8),
    Detail(thumbnails=0, changes=12, checks=8, open=20, groups=20, attacks=40, policies=8),
    Detail(thumbnails=0, changes=6, checks=0, open=10, groups=10, attacks=20, policies=4),
    Detail(thumbnails=0, changes=0, checks=0, open=5, groups=0, attacks=5, policies=0),
)
"""From everything that a reader may want down to what fits any page."""


def write_pack(
    judgement: Judgement,
    evidence: Evidence,
    contract: ReleaseContract,
    folder: Path,
    *,
    facts: Mapping[str, str],
    thumbnail: Thumbnail,
) -> Pack:
    """Return the paths of the evidence pack of one candidate, written into `folder`.

    Args:
        judgement: verdict of every gate.
        evidence: what it was taken on.
        contract: what was judged by.
        folder: is made where it is missing.
        facts: lineage (bundle, snapshot, code, ...) and `undo`, the command that takes the release back.
        thumbnail: gives the bytes of an item's picture; None where it has none.
    """
    record = record_of(judgement, evidence, contract, facts)
    folder.mkdir(parents=True, exist_ok=True)
    pack = Pack(
        index=folder / "index.html",
        judgement=folder / "judgement.json",
        card=folder / "model_card.md",
        summary=folder / "summary.md",
    )
    save_record(record, pack.judgement)
    pack.index.write_text(render(record, evidence, contract, thumbnail), encoding="utf-8")
    pack.card.write_text(model_card(record, evidence), encoding="utf-8")
    pack.summary.write_text(summary(record), encoding="utf-8")
    return pack


def render(
    record: PackRecord, evidence: Evidence, contract: ReleaseContract, thumbnail: Thumbnail
) -> str:
    """Return the page of a pack, at most `MAX_HTML_BYTES` long; what had to be left out is said."""
    evidence = as_served(evidence, record.caps)
    pictures = _pictures(evidence, thumbnail)
    for detail in _DETAILS:
        text = _page(record, evidence, contract, pictures, detail)
        if len(text.encode()) <= MAX_HTML_BYTES:
            return text
    only = "<p>The contract has too many gates for one page; every one is in judgement.json.</p>"
    return page.document("Blocked or proposed", [head(record), only], style=STYLE)


def _page(
    record: PackRecord,
    evidence: Evidence,
    contract: ReleaseContract,
    pictures: Mapping[str, str],
    detail: Detail,
) -> str:
    some = dict(list(pictures.items())[: detail.thumbnails])
    parts = {
        "gates": gates(record, max_checks=detail.checks),
        "why": curves(evidence, contract, max_policies=detail.policies),
        "groups": groups(record, evidence, max_policies=detail.policies, max_rows=detail.groups),
        "attacks": disguises(evidence, max_rows=detail.attacks),
        "changes": changes(evidence, some, max_rows=detail.changes),
        "open": not_certified(record, max_rows=detail.open),
        "lineage": lineage(record),
        "undo": undo(record),
    }
    body = [head(record)]
    if detail != _DETAILS[0]:
        body.append(_shortened(len(pictures) - len(some)))
    body += [
        f'<section id="{anchor}"><h2>{PARTS[anchor]}</h2>{part}</section>'
        for anchor, part in parts.items()
    ]
    return page.document(f"{record.state}: {record.candidate[:12]}", body, style=STYLE)


def _shortened(dropped: int) -> str:
    pictures = f" and {dropped} pictures" if dropped else ""
    return (
        f'<p class="notice">This page was shortened to stay within {MAX_HTML_BYTES // 1000} kB: some rows'
        f"{pictures} were left out. judgement.json has every figure.</p>"
    )


def _pictures(evidence: Evidence, thumbnail: Thumbnail) -> dict[str, str]:
    """Return the pictures of changed uploads, those of both directions in turn, the largest steps first."""
    found = evidence.sets.get("replay")
    if found is None:
        return {}
    most = _DETAILS[0].changes
    both = [changes_of(found, stronger=stronger, limit=most) for stronger in (True, False)]
    turns = sorted(
        ((rank, one.item_id) for listed in both for rank, one in enumerate(listed)),
        key=lambda turn: turn[0],
    )
    urls = ((item, data_url(thumbnail(item))) for _, item in turns)
    return {item: url for item, url in urls if url is not None}
