"""Copies of one listing across the split: an image match, or a text match where neither row has an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.pdq import MAX_DISTANCE

# Hashes compared at once: 4 words x 8 bytes x 4,096 x 4,096 is half a gigabyte; a quarter of that is enough.
_BLOCK: Final = 2_048


@dataclass(frozen=True)
class Fingerprints:
    """What N rows are compared by; images of all rows lie behind each other."""

    image_row_I: npt.NDArray[np.int64]
    """Row of each hashed image whose quality suffices."""

    image_hash_I4: npt.NDArray[np.uint64]
    num_images_N: npt.NDArray[np.int64]
    text_N: Sequence[str]


def plain_text(title: str, description: str) -> str:
    """Return the text that listings are compared by: one case, single spaces."""
    return " ".join(f"{title} {description}".casefold().split())


def copies_of(
    prints: Fingerprints, earlier_N: npt.NDArray[np.bool_], later_N: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return which of the earlier rows are copies of a later row.

    Args:
        prints: fingerprints of all N rows.
        earlier_N: rows that may be dropped (the training side).
        later_N: rows that stay (the test side).

    Returns:
        A mask over N, a subset of `earlier_N`.
    """
    copies_N = np.zeros(len(prints.text_N), bool)
    from_earlier, from_later = earlier_N[prints.image_row_I], later_N[prints.image_row_I]
    hash_I4 = prints.image_hash_I4
    matched = near_hash(hash_I4[from_earlier], hash_I4[from_later]) >= 0
    copies_N[prints.image_row_I[from_earlier][matched]] = True
    bare_N = prints.num_images_N == 0
    texts = {prints.text_N[row] for row in np.flatnonzero(later_N & bare_N).tolist()} - {""}
    for row in np.flatnonzero(earlier_N & bare_N).tolist():
        copies_N[row] |= prints.text_N[row] in texts
    return copies_N


def near_hash(
    left_A4: npt.NDArray[np.uint64], right_B4: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Return for each left hash the index of a right one within `MAX_DISTANCE`, -1 without one; exact, in blocks."""
    near_A = np.full(len(left_A4), -1, np.int64)
    if not len(right_B4):
        return near_A
    right_B4, index_B = np.unique(right_B4, axis=0, return_index=True)
    for a in range(0, len(left_A4), _BLOCK):
        for b in range(0, len(right_B4), _BLOCK):
            left, right = left_A4[a : a + _BLOCK], right_B4[b : b + _BLOCK]
            distance = np.zeros((len(left), len(right)), np.uint16)
            for word in range(4):
                distance += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
            found = np.flatnonzero((distance <= MAX_DISTANCE).any(axis=1))
            near_A[a + found] = index_B[b + distance[found].argmin(axis=1)]
    return near_A
