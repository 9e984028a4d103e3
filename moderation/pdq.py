"""PDQ: a 256-bit perceptual hash that survives re-encoding, resizing and small edits.

Computed here with numpy, because no compiled package of it installs everywhere; held to the reference implementation's
hashes by tests.
"""

import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

# PDQ's own recommendation (github.com/facebook/ThreatExchange, pdq/README).
MAX_DISTANCE: Final = 31
"""Bits of 256 in which two hashes of the same image differ at most."""

MIN_QUALITY: Final = 50
"""Least quality of a hash that says something about its image."""

_SIDE: Final = 64
_KEPT: Final = 16
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_NUM_PASSES: Final = 2
_FULL_QUALITY: Final = 90
"""Sum of gradients per point of quality, as in the reference."""


def pdq_bits(rgb_HW3: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.bool_], int]:
    """Return the hash of an image as 256 bits, and its quality.

    Args:
        rgb_HW3: pixels; at least one of each axis.

    Returns:
        bits, bool of 256, the 16 x 16 low frequencies from the highest down, as the reference writes them; and the
        quality, 0 (a flat image) to 100.

    Source:
        Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm", 2019.
    """
    luma_HW: npt.NDArray[np.float32] = rgb_HW3.astype(np.float32) @ _LUMA
    height, width = luma_HW.shape
    for _ in range(_NUM_PASSES):
        luma_HW = _box(luma_HW, _window(width), axis=1)
        luma_HW = _box(luma_HW, _window(height), axis=0)
    rows = ((np.arange(_SIDE) + 0.5) * height / _SIDE).astype(int)
    columns = ((np.arange(_SIDE) + 0.5) * width / _SIDE).astype(int)
    small = luma_HW[np.ix_(rows, columns)].astype(np.float64)
    basis = _cosines()
    frequencies = basis @ small @ basis.T
    # The reference takes the lower of the two middle values.
    median = np.sort(frequencies, axis=None)[frequencies.size // 2 - 1]
    return (frequencies > median).ravel()[::-1], _quality(small)


def _window(length: int) -> int:
    return (length + 2 * _SIDE - 1) // (2 * _SIDE)


def _box(values: npt.NDArray[np.float32], window: int, axis: int) -> npt.NDArray[np.float32]:
    """Return the running mean over `window` values, over fewer at the edges."""
    if window == 1:
        return values
    length = values.shape[axis]
    ahead = (window + 2) // 2
    begin = np.clip(np.arange(length) + ahead - window, 0, length)
    end = np.clip(np.arange(length) + ahead, 0, length)
    moved = np.moveaxis(values, axis, 0).astype(np.float64)
    sums = np.concatenate([np.zeros((1, *moved.shape[1:])), np.cumsum(moved, axis=0)])
    means: npt.NDArray[np.float64] = (sums[end] - sums[begin]) / (end - begin)[:, None]
    back: npt.NDArray[np.float32] = np.moveaxis(means, 0, axis).astype(np.float32)
    return back


@cache
def _cosines() -> npt.NDArray[np.float64]:
    """Return rows 1 to 16 of the discrete cosine transform of 64 points; the constant row says nothing."""
    row, column = np.arange(1, _KEPT + 1)[:, None], np.arange(_SIDE)[None, :]
    basis: npt.NDArray[np.float64] = np.cos(math.pi / (2 * _SIDE) * row * (2 * column + 1))
    return basis * math.sqrt(2 / _SIDE)


def _quality(small: npt.NDArray[np.float64]) -> int:
    """Return how much there is to see: the sum of gradients between neighbours, capped at 100."""
    steps = [np.diff(small, axis=axis) * 100 / 255 for axis in (0, 1)]
    total = sum(int(np.abs(step.astype(int)).sum()) for step in steps)
    return min(100, total // _FULL_QUALITY)
