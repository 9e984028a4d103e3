"""The search for golden items, or copies of them, among the rows that a candidate was trained on.

It looks at the snapshot that the candidate was really trained on, however that was made: a snapshot that was frozen
before the golden set, or elsewhere, or past the quarantine, is found out here. G golden rows.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from moderation.duplicates import near_hash, plain_text
from moderation.errors import InvalidSnapshot
from moderation.snapshot import Snapshot
from moderation.snapshot_rows import to_words
from moderation.text_copies import TextMarks

if TYPE_CHECKING:
    from moderation.image_copies import (
        ImageCopies,
    )  # loads ONNX Runtime, which readers of evidence do without

WAYS: Final = ("id", "seller", "campaign", "pdq", "text", "embedding")
_FITTED_ROLES: Final = ("train", "tune", "meta", "solve")
_COLUMNS: Final = (
    "submission_id",
    "listing_id",
    "seller_id",
    "title",
    "description",
    "image_digests",
    "image_hashes",
    "attributes",
    "role",
)
_BATCH: Final = 1_024


@dataclass(frozen=True)
class Leak:
    """A golden item that a row of training is, or is a copy of, or shares a seller with."""

    item_id: str
    submission_id: str
    how: str
    """One of `WAYS`."""


@dataclass(frozen=True)
class LeakCheck:
    """What a search of the candidate's training rows for golden items found."""

    snapshot: str
    """Digest of the snapshot that was searched."""

    rows: int
    leaks: tuple[Leak, ...]


def find_leaks(snapshot: Snapshot, golden: Snapshot, images: "ImageCopies") -> LeakCheck:
    """Return the golden items that the rows which `snapshot` fits on hold, copy, or share a seller or campaign with.

    Args:
        snapshot: what a candidate was trained on; read in batches.
        golden: table of the golden set that judges it, with the marks of its texts beside it.
        images: search for altered photos.

    Raises:
        InvalidSnapshot: if the rows are not those that the snapshot's digest names, or lack a column: then nothing is
            known of what the candidate was trained on.
    """
    _check(snapshot)
    search = _Search(golden, images)
    rows = 0
    for batch in snapshot.batches(_COLUMNS, _BATCH):
        records = [record for record in batch.to_pylist() if record["role"] in _FITTED_ROLES]
        rows += len(records)
        search.look_at(records)
    return LeakCheck(snapshot.digest, rows, tuple(search.found.values()))


def _check(snapshot: Snapshot) -> None:
    try:
        digest = snapshot.content_digest()
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSnapshot(
            f"snapshot {snapshot.digest[:12]} cannot be searched for leaks ({error!r}): freeze it again"
        ) from error
    if digest != snapshot.digest:
        raise InvalidSnapshot(
            f"{snapshot.folder}: the rows are those of {digest[:12]}, not of snapshot {snapshot.digest[:12]}: "
            "freeze it again and train on it"
        )


class _Search:
    """Keeps one leak per golden item and way."""

    def __init__(self, golden: Snapshot, images: "ImageCopies") -> None:
        self.found: dict[tuple[int, str], Leak] = {}
        self._images, self._photos_G = images, golden.image_digests()
        self._texts = TextMarks.load(golden.folder)
        prints = golden.fingerprints()
        self._hash_row_I, self._hash_I4 = prints.image_row_I, prints.image_hash_I4
        self._item_G: list[str] = []
        self._rows_by_key: dict[tuple[str, str], list[int]] = {}
        for batch in golden.batches(_COLUMNS, _BATCH):
            for record in batch.to_pylist():
                for key in _keys(record):
                    self._rows_by_key.setdefault(key, []).append(len(self._item_G))
                self._item_G.append(record["submission_id"])

    def look_at(self, records: list[dict[str, Any]]) -> None:
        """Compare some rows that were fitted on with every golden item."""
        for record in records:
            for way, value in _keys(record):
                for row in self._rows_by_key.get((way, value), ()):
                    self._keep(row, record, way)
            text = plain_text(record["title"], record["description"])
            self._keep(
                self._texts.copied(text, has_image=bool(record["image_digests"])), record, "text"
            )
        for row, place in _hash_matches(records, self._hash_I4):
            self._keep(int(self._hash_row_I[place]), records[row], "pdq")
        photos = [record["image_digests"] for record in records]
        near_N = self._images.find(photos, self._photos_G, strict=True)
        for record, row in zip(records, near_N.tolist(), strict=True):
            self._keep(row, record, "embedding")

    def _keep(self, row: int, record: dict[str, Any], way: str) -> None:
        if row >= 0:
            leak = Leak(self._item_G[row], record["submission_id"], way)
            self.found.setdefault((row, way), leak)


def _keys(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what must not be the same in a golden row and one that is fitted on."""
    yield "id", record["submission_id"]
    yield "id", f"listing {record['listing_id']}"
    attributes = json.loads(record["attributes"])
    if record["seller_id"]:
        yield "seller", record["seller_id"]
        if "campaign" in attributes:
            yield "campaign", attributes["campaign"]
    elif "group" in attributes:
        yield "seller", f"group {attributes['group']}"


def _hash_matches(
    records: list[dict[str, Any]], golden_I4: npt.NDArray[np.uint64]
) -> Iterator[tuple[int, int]]:
    """Yield (record, golden hash) of every image that a golden one has the hash of."""
    found = [(row, to_words(h)) for row, one in enumerate(records) for h in one["image_hashes"]]
    hash_I4 = np.array([words for _, words in found], np.uint64).reshape(-1, 4)
    for (row, _), place in zip(found, near_hash(hash_I4, golden_I4).tolist(), strict=True):
        if place >= 0:
            yield row, place
