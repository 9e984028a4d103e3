"""A pen that draws in coordinates of the object, from 0 to 1, wherever and however the object lies in the picture."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CANVAS: Final = 208
Colour = tuple[int, int, int]
Point = tuple[float, float]


def shade(colour: Colour, factor: float) -> Colour:
    """Return `colour` made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, int(part * factor)) for part in colour)
    return red, green, blue


def tint(rng: np.random.Generator, low: int = 40, high: int = 230) -> Colour:
    """Return any colour whose parts lie between `low` and `high`."""
    red, green, blue = (int(part) for part in rng.integers(low, high, size=3))
    return red, green, blue


def jitter(colour: Colour, rng: np.random.Generator, amount: int = 16) -> Colour:
    """Return a colour near `colour`."""
    red, green, blue = (
        int(np.clip(part + rng.integers(-amount, amount + 1), 0, 255)) for part in colour
    )
    return red, green, blue


class Pen:
    """Draws polygons, ellipses, lines and text of one object; its pose turns, mirrors and scales it."""

    def __init__(
        self, image: Image.Image, *, centre: Point, size: float, angle: float, mirrored: bool
    ) -> None:
        self._draw = ImageDraw.Draw(image)
        self._centre = centre
        self._size = size
        self._cos, self._sin = math.cos(angle) * size, math.sin(angle) * size
        self._flip = -1.0 if mirrored else 1.0

    def place(self, point: Point) -> Point:
        """Return the pixel of a point of the object."""
        x, y = (point[0] - 0.5) * self._flip, point[1] - 0.5
        return (
            self._centre[0] + x * self._cos - y * self._sin,
            self._centre[1] + x * self._sin + y * self._cos,
        )

    def polygon(self, points: Sequence[Point], fill: Colour, outline: Colour | None = None) -> None:
        """Fill a polygon."""
        self._draw.polygon([self.place(point) for point in points], fill=fill, outline=outline)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Fill a rectangle of the object."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def ellipse(self, centre: Point, radii: Point, fill: Colour) -> None:
        """Fill an ellipse of the object."""
        turns = np.linspace(0, 2 * math.pi, 22)
        points = [
            (centre[0] + radii[0] * math.cos(t), centre[1] + radii[1] * math.sin(t)) for t in turns
        ]
        self.polygon(points, fill)

    def ring(self, centre: Point, radius: float, width: float, colour: Colour) -> None:
        """Draw a circle's line."""
        turns = np.linspace(0, 2 * math.pi, 24)
        self.line(
            [(centre[0] + radius * math.cos(t), centre[1] + radius * math.sin(t)) for t in turns],
            width,
            colour,
        )

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line; `width` is a share of the object."""
        pixels = max(1, round(width * self._size))
        self._draw.line([self.place(point) for point in points], fill=colour, width=pixels)

    def text(self, point: Point, words: str, height: float, colour: Colour) -> None:
        """Write `words` upright, their middle at `point`."""
        font = ImageFont.load_default(max(8.0, height * self._size))
        self._draw.text(self.place(point), words, fill=colour, font=font, anchor="mm")
