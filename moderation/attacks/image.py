"""Attacks on the photos of a listing: taken otherwise, showing the same.

Training views know small turns, crops, blurs and recompressions, mirrored sides and other brightness. None is used here
as it is there: what both know is stronger here at every severity than a view ever is, a mirror stands on its head, and
colour changes its hue instead of its strength. The rest (borders, noise, print, stickers, a screen around the photo) is
here alone. A test compares the numbers.
"""

import functools
import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from moderation.attacks.lettering import fitting_font
from moderation.attacks.registry import GATE, Change, Subject, attack

MAX_SIDE: Final = 384
"""Shorter side that an attacked image keeps at most, as a training view does: more than a tower sees."""

ANGLE: Final = 20.0
KEPT: Final = 2 / 3
BORDER: Final = 0.3
"""Of the side, on each end of it."""

RADIUS: Final = 2.5
QUALITY: Final = 14
NOISE: Final = 18.0
"""Standard deviation, in levels of 255."""

PRINT: Final = 0.35
"""Opacity of the watermark."""

COVERED: Final = 0.12
"""Share of the photo under stickers."""

HUE: Final = 30.0
"""Degrees."""

SCREEN: Final = 0.6
"""Share of a screen's height that the photo fills."""

_MIN_SIDE: Final = 16
_MAX_ASPECT: Final = 8.0
_STICKERS: Final = 3
_PRINTS: Final = ("SAMPLE", "MY SHOP", "PHOTO 24", "STOCK")

OneImage = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _each(change: OneImage) -> Change:
    """Return an attack that changes every image of a listing by itself, each with a generator of its own."""

    @functools.wraps(change)
    def attacked(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
        if not subject.images:
            return None
        parts = rng.spawn(len(subject.images))
        images = zip(subject.images, parts, strict=True)
        return replace(subject, images=tuple(change(reduced(i), severity, r) for i, r in images))

    return attacked


@attack("rotation", family="image")
@_each
def rotation(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo turned to either side, its corners filled with the colour of the border."""
    angle = float(rng.choice([-1, 1]) * rng.uniform(0.9, 1.1)) * ANGLE * severity
    return image.rotate(angle, Image.Resampling.BILINEAR, expand=True, fillcolor=_border(image))


@attack("crop", family="image")
@_each
def crop(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the middle of the photo, a little off its centre."""
    share = KEPT / (KEPT + (1 - KEPT) * severity)
    width, height = (max(1, math.ceil(side * share)) for side in image.size)
    left = round((image.width - width) * rng.uniform(0.25, 0.75))
    top = round((image.height - height) * rng.uniform(0.25, 0.75))
    return image.crop((left, top, left + width, top + height))


@attack("pad", family="image")
@_each
def pad(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo inside a border of one colour."""
    across, down = (max(1, round(side * BORDER * severity)) for side in image.size)
    framed = Image.new("RGB", (image.width + 2 * across, image.height + 2 * down), _colour(rng))
    framed.paste(image, (across, down))
    return framed


@attack("blur", family="image")
@_each
def blur(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo out of focus."""
    return image.filter(ImageFilter.GaussianBlur(0.5 + (RADIUS - 0.5) * severity))


@attack("jpeg", family="image")
@_each
def jpeg(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo saved again and again, at a low quality."""
    quality = max(1, round(QUALITY * 2 ** (1 - severity)))
    for _ in range(2):
        image = _saved(image, quality)
    return image


@attack("noise", family="image")
@_each
def noise(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo with the grain of a night shot."""
    levels_HWC = np.asarray(image, np.float32)
    grain_HWC = rng.standard_normal(levels_HWC.shape, np.float32) * (NOISE * severity)
    return Image.fromarray((levels_HWC + grain_HWC).round().clip(0, 255).astype(np.uint8))


@attack("watermark", family="image")
@_each
def watermark(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo with a word printed across it, over and over, that it shines through."""
    word = str(rng.choice(_PRINTS))
    font = fitting_font(word, image.width * 0.4)
    left, top, right, bottom = (math.ceil(edge) for edge in font.getbbox(word))
    mask = Image.new("L", image.size)
    draw, step = ImageDraw.Draw(mask), (right - left) * 1.3
    opacity = min(0.7, PRINT * (0.4 + 0.6 * severity))
    for line, y in enumerate(range(-bottom, image.height, max(4, 3 * (bottom - top)))):
        for column in range(-1, math.ceil(image.width / step) + 1):
            draw.text(((column + line % 2 / 2) * step, y), word, round(255 * opacity), font)
    shade = (255, 255, 255) if rng.random() < 0.5 else (20, 20, 20)
    return Image.composite(Image.new("RGB", image.size, shade), image, mask)


@attack("overlay", family="image")
@_each
def overlay(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo with stickers near its corners; the middle stays free."""
    covered = image.copy()
    draw = ImageDraw.Draw(covered)
    area = min(0.35, COVERED * severity) * image.width * image.height / _STICKERS
    side = math.sqrt(area)
    for corner in rng.permutation(4)[:_STICKERS]:
        width, height = min(side, image.width / 2), min(side, image.height / 2)
        left = (image.width - width) * (corner % 2)
        top = (image.height - height) * (corner // 2)
        box = (left, top, left + width - 1, top + height - 1)
        colour = _colour(rng)
        if width >= 2 and height >= 2:
            draw.rounded_rectangle(box, min(width, height) / 6, fill=colour)
        else:
            draw.point((left, top), colour)
    return covered


@attack("mirror", family="image")
@_each
def mirror(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo mirrored so that it stands on its head, lies on its side, or lies beside its mirror image."""
    if severity < GATE:
        return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    turns = (Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE)
    turned = image.transpose(turns[int(rng.integers(2))])
    if severity == GATE:
        return turned
    both = Image.new("RGB", (2 * turned.width, turned.height))
    both.paste(turned, (0, 0))
    both.paste(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (turned.width, 0))
    return both


@attack("colour", family="image")
@_each
def colour(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return the photo with other hues and under warmer or colder light; shapes and brightness stay."""
    turn = round(rng.choice([-1, 1]) * HUE * severity / 360 * 256)
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    turned = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    warmth = float(rng.choice([-1, 1])) * 0.12 * severity
    gains = (1 + warmth, 1.0, 1 - warmth)
    bands = [
        band.point([min(255, round(level * gain)) for level in range(256)])
        for band, gain in zip(turned.split(), gains, strict=True)
    ]
    return Image.merge("RGB", bands)


@attack("screenshot_frame", family="image")
@_each
def screenshot_frame(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Return a telephone's screen that shows the photo: bars above, lines of text and buttons below."""
    share = SCREEN / (SCREEN + (1 - SCREEN) * severity)
    height = max(image.height + 4, round(image.height / share))
    paper, ink = (
        ((250, 250, 250), (60, 60, 60)) if rng.random() < 0.5 else ((24, 24, 28), (190, 190, 190))
    )
    screen = Image.new("RGB", (image.width, height), paper)
    bar = max(1, (height - image.height) // 4)
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, image.width, bar), fill=_colour(rng))
    screen.paste(image, (0, bar))
    line = max(2, bar // 3)
    for y in range(bar + image.height + line, height - line, 2 * line):
        draw.rectangle(
            (image.width // 20, y, round(image.width * rng.uniform(0.4, 0.9)), y + line - 1),
            fill=ink,
        )
    return screen


def reduced(image: Image.Image) -> Image.Image:
    """Return an image of a size that every attack is quick on, no side vanishingly short."""
    scale = min(1.0, MAX_SIDE / min(image.size), _MAX_ASPECT * MAX_SIDE / max(image.size))
    size = tuple(max(_MIN_SIDE, round(side * scale)) for side in image.size)
    if size == image.size:
        return image
    return image.resize((size[0], size[1]), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _saved(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return opened.convert("RGB")


def _border(image: Image.Image) -> tuple[int, int, int]:
    """Return the mean colour of the four corners."""
    pixels_HWC = np.asarray(image, np.float64)[[0, 0, -1, -1], [0, -1, 0, -1]]
    red, green, blue = (int(level) for level in pixels_HWC.mean(axis=0))
    return red, green, blue


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    return red, green, blue
