"""PDQ equals the reference implementation's hashes, bit for bit, and tells how much there was to see."""

import numpy as np
import numpy.typing as npt
import pytest

from moderation.pdq import pdq_bits

# Printed by the reference implementation's Python binding (pdqhash 0.2.8) for `picture(seed, height, width)`.
REFERENCE = [
    (0, 64, 64, "a188f726aab81726e7c8151665d8f536e0a44b061fac5d2c5a69b4ffafe88a4a", 58),
    (1, 200, 150, "0c5465b2a8d66aaaddd495322d54fb3202969f3256568af3ffe6000f577e5544", 30),
    (2, 333, 512, "e8b44daa9df4dd0ab9d403aa17f4f70a1474a27a7ff4a2a6e00c5fae555c00c9", 100),
    (3, 700, 90, "bf94f72380bc77635548001f555a7553a8a4411feffcaaa92002bfbfe3aa4d08", 80),
    (4, 1024, 768, "a45aab5c0000fbdcac52db5c92022fdc7e522fdcfe0004bcfbe0fdfcfbf80003", 100),
    (5, 5, 7, "cd2d39a836d2c2d7909e3bb4912ec64b6e616d29c92d39a836d2c2d7919e39b4", 93),
]


def picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return smooth waves of three colours; integer arithmetic alone, so that every machine draws the same."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    steps = np.random.default_rng(seed).integers(1, 9, (3, 4))
    planes = []
    for a, b, c, d in steps.tolist():
        wave = (
            a * 97 * x // width + b * 61 * y // height + c * d * x * y // (height * width)
        ) % 510
        planes.append(np.where(wave > 255, 510 - wave, wave).clip(0, 255))
    return np.stack(planes, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("seed", "height", "width", "expected", "quality"), REFERENCE)
def test_pdq_equals_the_reference(
    seed: int, height: int, width: int, expected: str, quality: int
) -> None:
    bits, found = pdq_bits(picture(seed, height, width))
    assert np.packbits(bits).tobytes().hex() == expected
    assert found == quality


def test_flat_image_has_no_quality() -> None:
    bits, quality = pdq_bits(np.full((80, 60, 3), 127, np.uint8))
    assert quality == 0
    assert bits.shape == (256,)
