"""Copies across the split: by image within PDQ's distance, by text only where no image is."""

import numpy as np

from moderation.duplicates import Fingerprints, copies_of
from moderation.pdq import MAX_DISTANCE


def _flip(hash_4: np.ndarray, num_bits: int) -> np.ndarray:
    flipped = hash_4.copy()
    for bit in range(num_bits):
        flipped[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return flipped


def _prints(
    hashes: list[tuple[int, np.ndarray]], images: list[int], texts: list[str]
) -> Fingerprints:
    rows = np.array([row for row, _ in hashes], np.int64)
    stacked = np.array([found for _, found in hashes], np.uint64).reshape(-1, 4)
    return Fingerprints(rows, stacked, np.array(images), texts)


def test_image_within_distance_is_a_copy() -> None:
    base = np.random.default_rng(0).integers(0, 2**63, 4).astype(np.uint64)
    near, far = _flip(base, MAX_DISTANCE), _flip(base, MAX_DISTANCE + 1)
    prints = _prints([(0, near), (1, far), (2, base)], [1, 1, 1], ["x", "y", "z"])
    copies = copies_of(prints, np.array([True, True, False]), np.array([False, False, True]))
    assert copies.tolist() == [True, False, False]


def test_same_text_is_a_copy_only_without_images() -> None:
    prints = _prints([], [0, 1, 0, 0], ["same", "same", "same", "other"])
    earlier, later = np.array([True, True, False, False]), np.array([False, False, True, True])
    assert copies_of(prints, earlier, later).tolist() == [True, False, False, False]


def test_empty_text_never_matches() -> None:
    prints = _prints([], [0, 0], ["", ""])
    assert not copies_of(prints, np.array([True, False]), np.array([False, True])).any()


def test_blocks_find_what_one_comparison_finds() -> None:
    rng = np.random.default_rng(5)
    left = rng.integers(0, 2**63, (5_000, 4)).astype(np.uint64)
    right = rng.integers(0, 2**63, (4_500, 4)).astype(np.uint64)
    left[[7, 2_500, 4_999]] = right[[0, 2_300, 4_499]]
    hashes = [(i, h) for i, h in enumerate(np.concatenate([left, right]))]
    is_left = np.arange(9_500) < 5_000
    copies = copies_of(_prints(hashes, [1] * 9_500, [""] * 9_500), is_left, ~is_left)
    assert np.flatnonzero(copies).tolist() == [7, 2_500, 4_999]
