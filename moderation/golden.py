"""Golden sets drawn: whole groups by a keyed hash, all violations and look-alikes, other innocents up to a limit.

Rows are read more than once, so that memory holds no text and no image. A group that any snapshot ever fitted on is
left out whole: its golden rows would share a seller or a campaign with rows that a champion was fitted on.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from moderation.duplicates import plain_text
from moderation.errors import InvalidSnapshot
from moderation.golden_set import (
    ROLE,
    GoldenFacts,
    GoldenSet,
    Look,
    fitted,
    golden_versions,
    latest_golden,
    looks,
    record_fitted,
    record_look,
    seal,
)
from moderation.release import GoldenRules
from moderation.snapshot import TableFacts, write_table
from moderation.snapshot_rows import SnapshotRow, is_immature, links_of, to_record
from moderation.splitting import group_rows
from moderation.text_copies import TextMarks

__all__ = [
    "GoldenSet",
    "Look",
    "build_golden",
    "golden_versions",
    "latest_golden",
    "looks",
    "record_fitted",
    "record_look",
    "rotate_golden",
]

Rows = Callable[[], Iterable[SnapshotRow]]
"""Gives the rows of the ledger as of one time; called more than once, the same rows in the same order each time."""

Hashed = Callable[[Iterator[SnapshotRow]], Iterator[SnapshotRow]]
"""Adds the hashes of their images to rows."""

Kind = Literal["violation", "hard_negative", "innocent"]

_SHARES: Final[tuple[tuple[Kind, float], ...]] = (
    ("violation", 0.5),
    ("hard_negative", 0.25),
    ("innocent", 1.0),
)
"""What a full set keeps at least: the rest goes to the kinds in this order."""

_YES: Final = frozenset({"1", "true", "yes"})


@dataclass(frozen=True)
class _Reviewed:
    """Reviewed truth as of one time."""

    rows: Rows
    hashed: Hashed | None
    policy_ids: tuple[str, ...]
    as_of: datetime


def build_golden(
    root: Path,
    rows: Rows,
    rules: GoldenRules,
    *,
    policy_ids: tuple[str, ...],
    as_of: datetime,
    hashed: Hashed | None = None,
) -> GoldenSet:
    """Return version 1, drawn from groups that no snapshot ever fitted on.

    Args:
        root: folder of the versions.
        rows: what is known at `as_of`.
        rules: shares and limits.
        policy_ids: policies of the truth.
        as_of: time that truth must have arrived by; submissions newer than its maturity are left out.
        hashed: hashes the images of the rows that are drawn; None where `rows` come hashed.

    Raises:
        InvalidSnapshot: if a version is there already, or no row can be drawn.
    """
    reviewed = _Reviewed(rows, hashed, policy_ids, as_of)
    if golden_versions(root):
        raise InvalidSnapshot(
            f"{root} has a golden set already; change a part of it with `tidegate golden rotate`"
        )
    pool = _Pool.of(reviewed, fitted(root))
    key = pool.key()
    drawn = {g for g in pool.free if _share(f"{key}:draw:{pool.name[g]}") < rules.share_of_groups}
    chosen = pool.take(drawn, rules.max_items, key)
    if not chosen:
        raise InvalidSnapshot(f"no golden set can be drawn: {pool.told()}; import or review more")
    return _freeze(root, reviewed, pool, chosen, GoldenFacts(1, as_of, key, pool.excluded, ()))


def rotate_golden(
    root: Path,
    rows: Rows,
    rules: GoldenRules,
    *,
    policy_ids: tuple[str, ...],
    as_of: datetime,
    hashed: Hashed | None = None,
) -> GoldenSet:
    """Return the next version: `rotation_share` of the groups give way to groups never used nor fitted on.

    What stays is read again, so that truth which was overturned is corrected. What is retired stays out of training:
    bundles were judged on it, and may be compared on it again. Arguments are those of `build_golden`.

    Raises:
        InvalidSnapshot: if there is no version yet, or no unused group.
    """
    reviewed = _Reviewed(rows, hashed, policy_ids, as_of)
    versions = golden_versions(root)
    if not versions:
        raise InvalidSnapshot(
            f"{root} has no golden set; build one first with `tidegate golden build`"
        )
    last = versions[-1]
    used = {pair for one in versions for links in one.facts.links for pair in links[:1]}
    pool = _Pool.of(reviewed, fitted(root), used)
    stay, num_retired, fresh_groups = _exchange(last, pool, rules)
    kept = [row for row, one in enumerate(pool.submission_id) if one in stay and pool.kind[row]]
    fresh = pool.take(fresh_groups, max(rules.max_items - len(kept), 1), last.facts.key)
    counts = pool.excluded | {
        "retired_groups": num_retired,
        "retired_items": last.table.num_rows - len(stay),
        "new_items": len(fresh),
        "gone_items": len(stay) - len(kept),
    }
    facts = GoldenFacts(last.version + 1, as_of, last.facts.key, counts, ())
    return _freeze(root, reviewed, pool, sorted({*kept, *fresh}), facts)


def _exchange(last: GoldenSet, pool: "_Pool", rules: GoldenRules) -> tuple[set[str], int, set[int]]:
    """Return the submissions that stay, how many groups are retired, and the groups that replace them."""
    key, group_N = last.facts.key, last.table.group.tolist()
    olds = sorted(set(group_N), key=lambda g: _share(f"{key}:retire:{last.version}:{g}"))
    news = sorted(pool.free, key=lambda g: _share(f"{key}:draw:{pool.name[g]}"))
    num = min(max(1, round(rules.rotation_share * len(olds))), len(news))
    if not num:
        raise InvalidSnapshot(f"no group is left to rotate in: {pool.told()}; wait for new sellers")
    ids, retired = last.table.column("submission_id").tolist(), set(olds[:num])
    stay = {one for one, group in zip(ids, group_N, strict=True) if group not in retired}
    return stay, num, set(news[:num])


@dataclass
class _Pool:
    """What is kept of every row while groups are drawn; lists have one entry per row."""

    submission_id: list[str] = field(default_factory=list)
    kind: list[Kind | None] = field(default_factory=list)
    """None where nothing mature is known of the row."""

    is_adjudicated: list[bool] = field(default_factory=list)
    links: list[tuple[tuple[str, str], ...]] = field(default_factory=list)
    group_N: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    free: set[int] = field(default_factory=set)
    """Groups with known truth that were neither fitted on nor used before."""

    name: dict[int, str] = field(default_factory=dict)
    """Group -> what it is drawn by: stays the same while it grows by sellers that come later in the alphabet."""

    excluded: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        reviewed: _Reviewed,
        trained_on: frozenset[str],
        used: set[tuple[str, str]] | None = None,
    ) -> "_Pool":
        pool, num_immature = cls(), 0
        for row in reviewed.rows():
            submission = row.submission
            is_new = is_immature(submission, reviewed.as_of)
            is_known = bool(row.truth) and not is_new
            num_immature += bool(row.truth) and is_new
            pool.submission_id.append(submission.submission_id)
            pool.kind.append(_kind_of(row) if is_known else None)
            pool.is_adjudicated.append(bool(row.truth) and set(row.truth) <= row.adjudicated)
            pool.links.append(tuple(links_of(submission)))
        pool.group_N = group_rows(pool.links)
        groups = pool.group_N.tolist()
        fitted_on = {
            g for g, one in zip(groups, pool.submission_id, strict=True) if one in trained_on
        }
        taken = {g for g, links in zip(groups, pool.links, strict=True) if links[0] in (used or ())}
        for group, links in zip(groups, pool.links, strict=True):
            name = ":".join(links[0])
            pool.name[group] = min(name, pool.name.get(group, name))
        known = [g for g, kind in zip(groups, pool.kind, strict=True) if kind]
        pool.free = set(known) - fitted_on - taken
        pool.excluded = {
            "excluded_unknown_truth": len(groups) - len(known) - num_immature,
            "excluded_immature": num_immature,
            "excluded_trained_on": sum(g in fitted_on for g in known),
            "excluded_used_before": sum(g in taken - fitted_on for g in known),
        }
        return pool

    def key(self) -> str:
        """Return a key that nobody outside can know: whoever knew it could tell which sellers are drawn."""
        return hashlib.sha256("\x1f".join(self.submission_id).encode()).hexdigest()

    def told(self) -> str:
        """Return why rows are not free, for people."""
        told = [
            f"{number} {name.removeprefix('excluded_')}" for name, number in self.excluded.items()
        ]
        return f"of {len(self.kind)} rows, {', '.join(told).replace('_', ' ')}"

    def take(self, groups: set[int], max_items: int, key: str) -> list[int]:
        """Return the rows of `groups` that go into the set, in order."""
        by_kind: dict[Kind, list[int]] = {kind: [] for kind, _ in _SHARES}
        for row, (group, kind) in enumerate(zip(self.group_N.tolist(), self.kind, strict=True)):
            if kind and group in groups:
                by_kind[kind].append(row)
        for rows in by_kind.values():
            rows.sort(key=lambda row: self._rank(row, key))
        taken: list[int] = []
        for kind, share in _SHARES:
            room = max_items - len(taken)
            taken += by_kind[kind][: min(room, round(share * max_items))]
        for kind, _ in _SHARES:
            left = [row for row in by_kind[kind] if row not in set(taken)]
            taken += left[: max_items - len(taken)]
        return sorted(taken)

    def _rank(self, row: int, key: str) -> tuple[bool, float]:
        """Adjudicated truth first, then by chance."""
        return not self.is_adjudicated[row], _share(f"{key}:item:{self.submission_id[row]}")


def _freeze(
    root: Path, reviewed: _Reviewed, pool: _Pool, rows: list[int], facts: GoldenFacts
) -> GoldenSet:
    """Write the version; it is there as a whole or not at all."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / str(facts.version)
    staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=root))
    try:
        counted, chosen = _Counted(reviewed.policy_ids), _chosen(reviewed, rows)
        hashed = chosen if reviewed.hashed is None else reviewed.hashed(chosen)
        table = write_table(
            staging,
            counted.records(hashed, pool.group_N[rows].tolist()),
            TableFacts(reviewed.policy_ids, reviewed.as_of, "declared", {}),
        )
        groups = pool.group_N.tolist()
        everyone = (
            (_text_of(row), group) for row, group in zip(reviewed.rows(), groups, strict=True)
        )
        golden = [
            (_text_of(row), bool(row.submission.image_digests)) for row in _chosen(reviewed, rows)
        ]
        texts = TextMarks.of(golden, everyone)
        drawn = {groups[row] for row in rows}
        links = {one for one, group in zip(pool.links, groups, strict=True) if group in drawn}
        counts = counted.counts | {"groups": len(drawn)} | dict(facts.counts)
        sealed = GoldenFacts(facts.version, facts.as_of, facts.key, counts, tuple(sorted(links)))
        seal(staging, sealed, table, texts)
        staging.chmod(0o755)  # a temporary folder is its maker's alone
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return GoldenSet.open(target)


def _chosen(reviewed: _Reviewed, rows: list[int]) -> Iterator[SnapshotRow]:
    wanted = set(rows)
    return (row for number, row in enumerate(reviewed.rows()) if number in wanted)


class _Counted:
    """Gives the records of golden rows and counts what they are."""

    def __init__(self, policy_ids: tuple[str, ...]) -> None:
        self._policy_ids = policy_ids
        self.counts = {"items": 0, "adjudicated": 0}
        for policy in policy_ids:
            self.counts |= {f"{policy}_violations": 0, f"{policy}_hard_negatives": 0}

    def records(self, rows: Iterable[SnapshotRow], groups: list[int]) -> Iterator[dict[str, Any]]:
        for row, group in zip(rows, groups, strict=True):
            self._count(row)
            record = to_record(row, self._policy_ids)
            record.pop("links")
            yield record | {"group": group, "role": ROLE, "fold": -1, "emphasis": 1.0}

    def _count(self, row: SnapshotRow) -> None:
        self.counts["items"] += 1
        self.counts["adjudicated"] += set(row.truth) <= row.adjudicated
        for policy, violates in row.truth.items():
            self.counts[f"{policy}_violations"] += violates
            self.counts[f"{policy}_hard_negatives"] += not violates and _is_hard(row, policy)


def _kind_of(row: SnapshotRow) -> Kind:
    if any(row.truth.values()):
        return "violation"
    return "hard_negative" if any(_is_hard(row, policy) for policy in row.truth) else "innocent"


def _is_hard(row: SnapshotRow, policy: str) -> bool:
    """Return whether an innocent row looks guilty: its data says so, or something had pointed at it."""
    said = row.submission.attributes.get("hard_negative", "")
    return said == policy or said.casefold() in _YES or row.is_suspected


def _text_of(row: SnapshotRow) -> str:
    listing = row.submission.listing
    return plain_text(listing.title, listing.description)


def _share(key: str) -> float:
    """Return a number in [0, 1) that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
