"""Whether one picture shows a part of another: borders trimmed, then every size and place of the one in the other.

A crop or a frame changes the PDQ hash beyond recognition and an embedding less than another photo of the same product
does; the pixels themselves tell them apart. S is the side of the reduced pictures, T the number of
sizes tried, F their frequencies.
"""

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import fft

ALIGNMENT_VERSION: Final = 1
"""Raised when `trim` or `likeness` changes: what was cached of another version is stale."""

MIN_CORRELATION: Final = 0.80
MAX_COLOUR_GAP: Final = 20.0
"""Of 320 crops of grocery photos to 70-95 %, written as JPEG again, 98 % keep both limits, of 80 frames and 80 mirror
images all; of 400 pairs of other photos with near embeddings one does, two shots of the same hand and carton."""

COLOUR_REACH: Final = np.array([25, 25, 25, 20, 20, 20], np.float32)
"""How far a crop may move `colours`: 99 % of crops to 80 % stay within, all of those to 90 %."""

_SIDE: Final = 32
_SIZES: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
_ASPECT: Final = 0.051
"""Width and height may shrink by shares that differ this much: a crop need not keep the aspect."""

_TOLERANCE: Final = 8.0
"""Steps of 255 by which a line of a border may differ from its colour on average: JPEG rings around an edge."""

_LEAST_SIDE: Final = 8
_LEAST_DEVIATION: Final = 4.0
"""Pixels levels; where the picture is flatter, noise would correlate by chance."""

Pixels = npt.NDArray[np.float32]


def trim(image: Image.Image) -> Image.Image:
    """Return the picture without a border of one colour; the picture itself where there is none."""
    pixels_HWC = np.asarray(image.convert("RGB")).astype(np.int16)
    top, bottom = _border(pixels_HWC), _border(pixels_HWC[::-1])
    turned_WHC = pixels_HWC.transpose(1, 0, 2)
    left, right = _border(turned_WHC), _border(turned_WHC[::-1])
    height, width = pixels_HWC.shape[:2]
    if top + bottom > height - _LEAST_SIDE or left + right > width - _LEAST_SIDE:
        return image  # a flat picture is all border
    if not (top or bottom or left or right):
        return image
    return image.crop((left, top, width - right, height - bottom))


@dataclass(frozen=True)
class Outline:
    """A trimmed picture prepared for comparison: T sizes that it is looked for at, and what it offers at each place."""

    template_TF: npt.NDArray[np.complex64]
    spectra_2F: npt.NDArray[np.complex64]
    """Of the picture, and of its mirror image."""

    scale_T: tuple[Pixels, ...]
    """Per size, the norm of what a part of this size covers at each place."""

    small: Image.Image
    """Trimmed, in colour, twice as large as what is compared."""

    @classmethod
    def of(cls, image: Image.Image) -> "Outline":
        """Return the outline of a picture as it was submitted."""
        side = 2 * _SIDE
        small = trim(image).convert("RGB").resize((side, side), Image.Resampling.BOX)
        grey = small.convert("L")
        whole_SS = _pixels(grey, _SIDE, _SIDE)
        whole_SS = whole_SS - whole_SS.mean()
        both_2SS = np.stack([whole_SS, whole_SS[:, ::-1]])
        return cls(
            template_TF=_templates(grey),
            spectra_2F=fft.rfft2(both_2SS, (side, side)),
            scale_T=_scales(whole_SS),
            small=small,
        )


@dataclass(frozen=True)
class Likeness:
    """How one picture looks like a part of another, at the size and place where it does most."""

    correlation: float
    """Of the grey pixels, 1 where they are the same."""

    colour_gap: float
    """Mean difference of the colours, in steps of 255."""

    def is_copy(self, margin: float = 0.0) -> bool:
        """Return whether it is a part of it; a margin, a share of the limits, asks for more."""
        return self.correlation >= MIN_CORRELATION * (
            1 + margin
        ) and self.colour_gap <= MAX_COLOUR_GAP * (1 - margin)


def likeness(first: Outline, second: Outline) -> Likeness:
    """Return how well one of two pictures, or its mirror image, is found in the other.

    Source:
        Lewis 1995, "Fast normalized cross-correlation".
    """
    found = (_found(first, second), _found(second, first))
    return max(found, key=lambda one: one.correlation)


def colours(inside: Image.Image) -> npt.NDArray[np.float32]:
    """Return mean and deviation of the colours of a trimmed picture, float32[6], in steps of 255."""
    pixels_NC = _pixels(inside.convert("RGB"), _SIDE, _SIDE).reshape(-1, 3)
    return np.concatenate([pixels_NC.mean(axis=0), pixels_NC.std(axis=0)]).astype(np.float32)


def _border(lines_LMC: npt.NDArray[np.int16]) -> int:
    """Return how many lines from the first on are of the first one's colour."""
    colour_C = np.median(lines_LMC[0], axis=0)
    is_same_L = np.abs(lines_LMC - colour_C).mean(axis=(1, 2)) <= _TOLERANCE
    return len(is_same_L) if is_same_L.all() else int(np.argmin(is_same_L))


def _found(part: Outline, whole: Outline) -> Likeness:
    best, where = -1.0, (0, 0, 0, False)
    for is_mirrored, spectrum_F in enumerate(whole.spectra_2F):
        product_TSS = fft.irfft2(spectrum_F * part.template_TF, (2 * _SIDE, 2 * _SIDE))
        for place, scale in enumerate(whole.scale_T):
            height, width = scale.shape
            found = product_TSS[place, :height, :width] / scale[:, :: -1 if is_mirrored else 1]
            top = int(found.argmax())
            if found.flat[top] > best:
                best = float(found.flat[top])
                where = (place, top // width, top % width, bool(is_mirrored))
    return Likeness(best, _colour_gap(part, whole, where))


def _colour_gap(part: Outline, whole: Outline, where: tuple[int, int, int, bool]) -> float:
    place, top, left, is_mirrored = where
    height, width = _covers()[0][place]
    whole_SSC = _pixels(whole.small, _SIDE, _SIDE)
    if is_mirrored:
        whole_SSC = whole_SSC[:, ::-1]
    covered_HWC = whole_SSC[top : top + height, left : left + width]
    return float(np.abs(covered_HWC - _pixels(part.small, height, width)).mean())


def _templates(grey: Image.Image) -> npt.NDArray[np.complex64]:
    """Return conjugate spectra of the picture at every size, each of mean 0 and norm 1 or less."""
    shapes, _ = _covers()
    parts_TSS = np.zeros((len(shapes), 2 * _SIDE, 2 * _SIDE), np.float32)
    for place, (height, width) in enumerate(shapes):
        part = _pixels(grey, height, width)
        part = part - part.mean()
        least = _LEAST_DEVIATION * (height * width) ** 0.5
        parts_TSS[place, :height, :width] = part / max(float(np.linalg.norm(part)), least)
    spectra: npt.NDArray[np.complex64] = np.conj(fft.rfft2(parts_TSS))
    return spectra


def _scales(whole_SS: Pixels) -> tuple[Pixels, ...]:
    shapes, cover_TF = _covers()
    side = (2 * _SIDE, 2 * _SIDE)
    sum_TSS = fft.irfft2(fft.rfft2(whole_SS, side) * cover_TF, side)
    square_TSS = fft.irfft2(fft.rfft2(whole_SS**2, side) * cover_TF, side)
    scales = []
    for place, (height, width) in enumerate(shapes):
        inside = (place, slice(0, _SIDE - height + 1), slice(0, _SIDE - width + 1))
        area = height * width
        energy = square_TSS[inside] - sum_TSS[inside] ** 2 / area
        scales.append(np.sqrt(np.maximum(energy, _LEAST_DEVIATION**2 * area)))
    return tuple(scales)


def _pixels(image: Image.Image, height: int, width: int) -> Pixels:
    return np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)


@cache
def _covers() -> tuple[tuple[tuple[int, int], ...], npt.NDArray[np.complex64]]:
    """Return the sizes that a part is tried at, and the conjugate spectrum of the area that each covers."""
    shapes = tuple(
        (round(_SIDE * h), round(_SIDE * w))
        for h in _SIZES
        for w in _SIZES
        if abs(h - w) <= _ASPECT
    )
    masks_TSS = np.zeros((len(shapes), 2 * _SIDE, 2 * _SIDE), np.float32)
    for place, (height, width) in enumerate(shapes):
        masks_TSS[place, :height, :width] = 1
    return shapes, np.conj(fft.rfft2(masks_TSS))
