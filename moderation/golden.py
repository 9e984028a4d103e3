"""Golden sets: curated, versioned, frozen listings that candidates are judged on and that nothing is ever trained on.

Whole groups of sellers and campaigns are drawn by a keyed hash from reviewed truth. A set lies in `<root>/<version>/`
in the Snapshot schema (role `golden`) beside `golden.json`, which names the groups' links. What was altered is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from moderation.release import GoldenRules
from moderation.snapshot import Snapshot, SnapshotRow

Rows = Callable[[], Iterable[SnapshotRow]]
"""Gives the rows of the ledger as of one time, images hashed; called more than once, so that memory stays small."""


@dataclass(frozen=True)
class GoldenSet:
    """One version of the golden set, verified when it is opened."""

    folder: Path
    version: int
    digest: str
    """SHA-256 of everything in `golden.json`, the digest of the rows among it."""

    as_of: datetime
    table: Snapshot
    """Readable as every snapshot; every row has the role `golden`."""

    sellers: frozenset[str]
    """Of the whole groups that were drawn, also those without an item."""

    counts: Mapping[str, int]
    """`<policy>_violations`, `<policy>_hard_negatives`, `items`, `groups`, `adjudicated`, `excluded_trained_on`."""

    @classmethod
    def open(cls, folder: Path) -> "GoldenSet":
        """Return the golden set in `folder`.

        Raises:
            InvalidSnapshot: if the folder holds none, or its content is not what its digest says.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Look:
    """One bundle that was judged on one version."""

    version: int
    golden: str
    """Digest of the set."""

    bundle: str
    by: str
    at: datetime


def latest_golden(root: Path) -> GoldenSet | None:
    """Return the newest version below `root`; None where no golden set was built.

    Raises:
        InvalidSnapshot: if it was altered.
    """
    raise NotImplementedError


def record_look(golden: GoldenSet, *, bundle: str, by: str, at: datetime, max_looks: int) -> int:
    """Return how many bundles were judged on this version, this one included; it is logged before it looks.

    A bundle that looks again learns nothing new: it is logged and does not count twice.

    Raises:
        GateRejected: if `max_looks` other bundles were judged on this version: rotate the set.
    """
    raise NotImplementedError


def build_golden(
    root: Path, rows: Rows, rules: GoldenRules, *, policy_ids: tuple[str, ...], as_of: datetime
) -> GoldenSet:
    """Return version 1, drawn from rows that no snapshot ever trained on.

    Raises:
        InvalidSnapshot: if a version is there already, or nothing can be drawn.
    """
    raise NotImplementedError


def rotate_golden(
    root: Path, rows: Rows, rules: GoldenRules, *, policy_ids: tuple[str, ...], as_of: datetime
) -> GoldenSet:
    """Return the next version: `rotation_share` of the groups replaced by groups that were never used nor trained on.

    Raises:
        InvalidSnapshot: if there is no version yet, or no unused group.
    """
    raise NotImplementedError
