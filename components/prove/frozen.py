"""Rows of one frozen set, with what they are judged by, before any bundle has answered.

N rows, P policies of the candidate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Answers, ScoredSet, digest_rows
from moderation.gates.slicing import SliceRow, slices_of
from moderation.release import SliceRules
from moderation.rescoring import LazyImage, LazyItem
from moderation.signals import as_words
from moderation.snapshot import Snapshot

ReadBlob = Callable[[str], bytes]
Record = Mapping[str, Any]

_UNKNOWN: Final = -1


@dataclass(frozen=True)
class FrozenRows:
    """The N rows of one set."""

    name: str
    policies: tuple[str, ...]
    records: tuple[Record, ...]
    """Columns of a snapshot, `group` among them."""

    truth_NP: npt.NDArray[np.int8]
    """In the order of `policies`; unknown under a policy that the rows' table lacks."""

    adjudicated_NP: npt.NDArray[np.bool_]
    items: tuple[LazyItem, ...]

    def scored(self, candidate: Answers, champion: Answers | None, rules: SliceRules) -> ScoredSet:
        """Return the rows as evidence."""
        item_id, weight = self.words("submission_id"), self.column("weight", np.float64)
        return ScoredSet(
            name=self.name,
            digest=digest_rows(item_id, self.truth_NP, weight),
            policies=self.policies,
            item_id=item_id,
            seller_id=self.words("seller_id"),
            group=self.column("group", np.int64),
            weight=weight,
            truth_NP=self.truth_NP,
            adjudicated_NP=self.adjudicated_NP,
            num_images=np.array([len(item.images) for item in self.items], np.int64),
            candidate=candidate,
            champion=champion,
            slices=slices_of([SliceRow.of(record) for record in self.records], rules),
        )

    def words(self, name: str) -> npt.NDArray[np.str_]:
        """Return a column of strings, the empty word where there is none."""
        return as_words([record[name] or "" for record in self.records])

    def column(self, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Return a column of numbers."""
        return np.array([record[name] for record in self.records], dtype)


def freeze(
    name: str,
    records: Iterable[Record],
    table_policies: Sequence[str],
    policies: Sequence[str],
    read_blob: ReadBlob,
) -> FrozenRows:
    """Return the rows of a set.

    Args:
        name: of the set.
        records: columns of a snapshot; the order is kept.
        table_policies: what the columns of their truth are.
        policies: of the candidate.
        read_blob: gives the bytes of an image by digest, when they are needed.

    Raises:
        InvalidSnapshot: if there is no row, or none of the policies is known to the table.
    """
    kept = tuple(records)
    if not kept:
        raise InvalidSnapshot(f"the set {name} has no row")
    if not set(policies) & set(table_policies):
        raise InvalidSnapshot(
            f"the set {name} knows none of the candidate's policies, but {list(table_policies)}"
        )
    return FrozenRows(
        name=name,
        policies=tuple(policies),
        records=kept,
        truth_NP=_by_policy(kept, "truth", table_policies, policies),
        adjudicated_NP=_by_policy(kept, "adjudicated", table_policies, policies) == 1,
        items=tuple(item_of(record, read_blob) for record in kept),
    )


def records_of(snapshot: Snapshot, role: str) -> Iterable[Record]:
    """Yield the records of the rows with a role, in order."""
    for batch in snapshot.batches():
        for record in batch.to_pylist():
            if record["role"] == role:
                yield record


def item_of(record: Record, read_blob: ReadBlob) -> LazyItem:
    """Return a record as the scorer reads it; images are loaded when no cache knows them."""
    behaviour = record["behaviour"]
    return LazyItem(
        title=record["title"],
        description=record["description"],
        images=tuple(
            LazyImage(bytes.fromhex(digest), partial(read_blob, digest))
            for digest in record["image_digests"] or ()
        ),
        behaviour=None if behaviour is None else np.array(behaviour, np.float32),
    )


def _by_policy(
    records: Sequence[Record], name: str, table_policies: Sequence[str], policies: Sequence[str]
) -> npt.NDArray[np.int8]:
    table_NT = np.array([record[name] for record in records], np.int8)
    found_NP = np.full((len(records), len(policies)), _UNKNOWN, np.int8)
    for column, policy in enumerate(policies):
        if policy in table_policies:
            found_NP[:, column] = table_NT[:, list(table_policies).index(policy)]
    return found_NP
