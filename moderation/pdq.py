"""PDQ: a 256-bit perceptual hash that survives re-encoding, resizing and small edits.

Computed here with numpy, because no compiled package of it installs everywhere; held to the reference implementation's
hashes by tests.
"""

import math
from functools import cache, lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

# PDQ's own recommendation (github.com/facebook/ThreatExchange, pdq/README).
MAX_DISTANCE: Final = 31
"""Bits of 256 in which two hashes of the same image differ at most."""

MIN_QUALITY: Final = 50
"""Least quality of a hash that says something about its image."""

_SIDE: Final = 64
_KEPT: Final = 16
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
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
    red, green, blue = (rgb_HW3[..., k] * _LUMA[k] for k in range(3))
    luma_HW = red + green + blue
    height, width = luma_HW.shape
    small = (_reduction(height) @ (_reduction(width) @ luma_HW.T).T).astype(np.float64)
    basis = _cosines()
    frequencies = basis @ small @ basis.T
    # The reference takes the lower of the two middle values.
    median = np.sort(frequencies, axis=None)[frequencies.size // 2 - 1]
    return (frequencies > median).ravel()[::-1], _quality(small)


@lru_cache(maxsize=1_024)
def _reduction(length: int) -> sparse.csr_array:
    """Return the rows that take `length` values to 64, float32[64, length]: a running mean twice, then every so many.

    Means are over a window of about a 128th of the length, over fewer values at the edges.
    """
    window = (length + 2 * _SIDE - 1) // (2 * _SIDE)
    ahead, place = (window + 2) // 2, np.arange(length)
    begin = np.clip(place + ahead - window, 0, length)
    count = np.clip(place + ahead, 0, length) - begin
    ends = np.cumsum(count)
    columns = np.arange(ends[-1]) + np.repeat(begin - (ends - count), count)
    mean = sparse.csr_array((np.repeat(1 / count, count), columns, np.append(0, ends)))
    taken = ((np.arange(_SIDE) + 0.5) * length / _SIDE).astype(int)
    return (mean[taken] @ mean).astype(np.float32)


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
