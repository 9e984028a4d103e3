"""Recorded uploads that the candidate would decide otherwise, both ways, with what they look like."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moderation import image
from moderation.errors import InvalidListing
from moderation.evaluation import page
from moderation.gates.evidence import Answers, Evidence, ScoredSet
from moderation.pack.curves import missing
from moderation.pack.decided import Integers, tiers_NP
from moderation.pack.words import clipped, figure
from moderation.policy import Tier

_THUMBNAIL_SIDE = 88
_QUALITY = 60

Thumbnail = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Change:
    """One upload whose decision differs."""

    item_id: str
    policy: str
    """The one that decides on the stricter side."""

    before: Tier
    after: Tier
    probability: float
    probability_before: float
    truth: int
    about: str
    """Its slices, for people."""


def tiers_N(answers: Answers, found: ScoredSet) -> Integers:
    """Return the tier of each upload: the strongest that any policy gives."""
    strongest: Integers = tiers_NP(answers, found.policies).max(axis=1)
    return strongest


def changes_of(found: ScoredSet, *, stronger: bool, limit: int) -> list[Change]:
    """Return the uploads that are treated more strictly, or more mildly; the largest steps first."""
    champion = found.champion
    if champion is None or not is_decidable(found):
        return []
    by_policy = tiers_NP(found.candidate if stronger else champion, found.policies)
    before_N, after_N = tiers_N(champion, found), tiers_N(found.candidate, found)
    step_N = (after_N - before_N).astype(int) * (1 if stronger else -1)
    rows_C = np.flatnonzero(step_N > 0)
    moved_N = np.abs(found.candidate.probability_NP - champion.probability_NP).max(axis=1)
    rows_C = rows_C[np.lexsort((-moved_N[rows_C], -step_N[rows_C]))][:limit]
    changes = []
    for row in rows_C.tolist():
        column = int(by_policy[row].argmax())
        about = (
            f"{name.replace('_', ' ')} {values[row]}"
            for name, values in found.slices.items()
            if values[row]
        )
        changes.append(
            Change(
                item_id=str(found.item_id[row]),
                policy=found.policies[column],
                before=Tier(int(before_N[row])),
                after=Tier(int(after_N[row])),
                probability=float(found.candidate.probability_NP[row, column]),
                probability_before=float(champion.probability_NP[row, column]),
                truth=int(found.truth_NP[row, column]),
                about=" · ".join(about),
            )
        )
    return changes


def is_decidable(found: ScoredSet) -> bool:
    """Return whether every probability, recorded and new, is a number."""
    both = (found.candidate, found.champion)
    return all(np.isfinite(one.probability_NP).all() for one in both if one is not None)


def changes(evidence: Evidence, thumbnails: dict[str, str], *, max_rows: int) -> str:
    """Return who moved where, then the uploads themselves.

    Args:
        evidence: its set `replay` is read.
        thumbnails: item -> data URL, for those that have one and fit the page.
        max_rows: uploads listed each way.
    """
    found = evidence.sets.get("replay")
    if found is None:
        return missing(evidence, "replay")
    if found.champion is None:
        return '<p class="soft">Not measured: the replayed traffic has no recorded answers.</p>'
    if not is_decidable(found):
        return '<p class="soft">Not measured: a score is no number.</p>'
    before_N, after_N = tiers_N(found.champion, found), tiers_N(found.candidate, found)
    moved = [
        float(np.average(m, weights=found.weight)) for m in (after_N > before_N, after_N < before_N)
    ]
    parts = [
        f"<p>{found.num_rows:,} recorded uploads were decided again: <b>{page.percent(moved[0])}</b> would be "
        f"treated more strictly, <b>{page.percent(moved[1])}</b> more mildly.</p>",
        _moves(before_N, after_N),
    ]
    for title, stronger, total in (
        ("More strictly", True, int((after_N > before_N).sum())),
        ("More mildly", False, int((after_N < before_N).sum())),
    ):
        listed = changes_of(found, stronger=stronger, limit=max_rows)
        parts.append(f"<h3>{title}: {len(listed):,} of {total:,}, the largest steps first</h3>")
        parts.append(_table(listed, thumbnails) if listed else "<p class=soft>None.</p>")
    return "".join(parts)


def data_url(raw: bytes | None) -> str | None:
    """Return an image as a small JPEG inside a URL; None for what is no safe image."""
    if not raw:
        return None
    try:
        picture = image.decode(raw)
    except InvalidListing:
        return None
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


_TRUTHS = {1: ("violates", "bad"), 0: ("is fine", "good"), -1: ("not reviewed", "mute")}


def _table(listed: list[Change], thumbnails: dict[str, str]) -> str:
    rows = []
    for one in listed:
        url = thumbnails.get(one.item_id)
        picture = f'<img src="{url}" alt="" loading="lazy">' if url else ""
        rows.append(
            [
                picture,
                f"<b>{one.before.label} → {one.after.label}</b>",
                f"{page.escape(one.policy)} {figure(one.probability_before)} → {figure(one.probability)}",
                page.chip(*_TRUTHS[one.truth]),
                f"<code>{page.escape(clipped(one.item_id, 60))}</code>"
                f"<div class=soft>{page.escape(clipped(one.about, 160))}</div>",
            ]
        )
    heads = ["", "decision", "policy and probability", "truth", "upload"]
    return page.table(heads, rows)


def _moves(before_N: Integers, after_N: Integers) -> str:
    seen = sorted(set(before_N.tolist()) | set(after_N.tolist()))
    rows = []
    for old in seen:
        counts = [int(((before_N == old) & (after_N == new)).sum()) for new in seen]
        cells = [
            f"<b>{count:,}</b>" if new != old and count else f"{count:,}"
            for new, count in zip(seen, counts, strict=True)
        ]
        rows.append([f"was {Tier(old).label}", *cells])
    return page.table(["uploads", *(f"#now {Tier(new).label}" for new in seen)], rows)
