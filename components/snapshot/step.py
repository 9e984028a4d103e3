"""Rows -> snapshot with roles, folds and groups."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.home import Home
from components.image_copies import image_copies
from components.ingest.rows import open_rows
from components.policies import cut_off_of, read_policies
from components.snapshot.hard_kinds import emphasis_of
from ledger.store import ContentStore
from moderation import image
from moderation.errors import InvalidListing, InvalidSnapshot, PermanentError
from moderation.golden import record_fitted
from moderation.pdq import MIN_QUALITY
from moderation.quarantine import Quarantine
from moderation.snapshot import Snapshot, SnapshotRow, SnapshotWriter, missing_evidence


@dataclass(frozen=True)
class Done:
    """What was frozen."""

    digest: str
    mode: str
    counts: dict[str, float]


def run(
    rows: str, home: str, logical_date: str, policies: str, min_positives: int, *, out: str
) -> Done:
    """Write the snapshot to the folder `out`, without golden rows and what resembles them.

    Raises:
        InvalidSnapshot: if a policy has fewer than `min_positives` to train or to test on, or a golden set is altered.
        DamagedExport: if hard examples of an earlier bundle cannot be read.
    """
    policy_ids, place = read_policies(policies).ids, Home(Path(home))
    read_blob = ContentStore(place.content).get
    quarantine, cut_off = Quarantine.of(place.golden), cut_off_of(logical_date)
    emphasis = emphasis_of(place, cut_off)
    writer = SnapshotWriter(Path(out), policy_ids, cut_off)
    for row in hashed_rows(open_rows(Path(rows)), read_blob):
        writer.add(row)
    frozen = writer.finish(
        quarantine.bar(lambda: image_copies(place)),
        lambda record: emphasis.of_row(record, policy_ids),
    )
    lacking = missing_evidence(
        frozen, min_train=min_positives, min_test=min_positives, min_negatives=min_positives
    )
    if lacking:
        raise InvalidSnapshot("too little truth to train and judge: " + "; ".join(lacking))
    record_fitted(place.golden, frozen)
    return Done(frozen.digest, frozen.mode, _counts(frozen))


def hashed_rows(
    rows: Iterator[SnapshotRow], read_blob: Callable[[str], bytes]
) -> Iterator[SnapshotRow]:
    """Yield `rows` with the hashes of their images; only rows with truth are worth hashing."""
    for row in rows:
        if not row.truth:
            yield row
            continue
        hashes = [_hash(digest, read_blob) for digest in row.submission.image_digests]
        yield dataclasses.replace(row, image_hashes=[h for h in hashes if h is not None])


def _hash(digest: str, read_blob: Callable[[str], bytes]) -> npt.NDArray[np.uint64] | None:
    """Return the hash of an image that can be decoded and says something; None otherwise."""
    try:
        pixels = image.decode(read_blob(digest), field=digest)
    except (InvalidListing, PermanentError):
        return None
    words, quality = image.pdq(pixels)
    return words if quality >= MIN_QUALITY else None


def _counts(frozen: Snapshot) -> dict[str, float]:
    truth_NP, role_N, weight_N = frozen.truth_NP(), frozen.role, frozen.weight
    counts = {"rows": float(frozen.num_rows)} | {k: float(v) for k, v in frozen.counts.items()}
    counts["emphasised_rows"] = float((frozen.emphasis > 1).sum())
    for role in np.unique(role_N):
        counts[f"{role}_rows"] = float((role_N == role).sum())
    for column, policy in enumerate(frozen.policy_ids):
        known = truth_NP[:, column] >= 0
        positive = truth_NP[:, column] == 1
        counts[f"{policy}_positives"] = float(positive.sum())
        counts[f"{policy}_prevalence"] = float(
            weight_N[positive].sum() / max(weight_N[known].sum(), 1e-12)
        )
    return counts
