"""Drawings for the counterfeit policy: shoes, bags and watches with the mark of a brand, right, wrong or another's."""

import math

import numpy as np

from marketplace.pen import Colour, Pen, Point, jitter, shade, tint
from marketplace.scenes import Photo

_BRAND_COLOURS: tuple[Colour, ...] = ((200, 32, 44), (24, 70, 170), (16, 120, 72), (226, 160, 20))
_POINTS = (3, 4, 5, 6)


def _star(centre: Point, radius: float, points: int, depth: float, turn: float) -> list[Point]:
    return [
        (
            centre[0]
            + radius * (1 if i % 2 == 0 else depth) * math.sin(turn + math.pi * i / points),
            centre[1]
            - radius * (1 if i % 2 == 0 else depth) * math.cos(turn + math.pi * i / points),
        )
        for i in range(2 * points)
    ]


def mark(
    pen: Pen, centre: Point, radius: float, *, brand: int, level: int, rng: np.random.Generator
) -> None:
    """Draw the brand's mark: a star in a ring. A copy has it wrong; a house brand has one of its own."""
    colour, points = _BRAND_COLOURS[brand], _POINTS[brand]
    if level == Photo.SUSPECT:
        pen.ellipse(centre, (radius, radius), colour)
        pen.polygon(_star(centre, radius * 0.7, points, 0.6, math.pi / points), (248, 248, 244))
        return
    pen.ellipse(centre, (radius, radius), (248, 248, 244))
    if level == Photo.TELLING:
        wrong = jitter(shade(colour, float(rng.uniform(0.7, 1.4))), rng, 36)
        middle = (centre[0] + radius * 0.25, centre[1] + radius * float(rng.uniform(-0.3, 0.3)))
        pen.ring(centre, radius * 1.15, radius * 0.14, wrong)
        pen.ring(middle, radius * 1.0, radius * 0.12, shade(wrong, 0.6))
        star = _star(middle, radius * 0.7, points + 4, float(rng.uniform(0.25, 0.4)), 0.5)
        pen.polygon([(middle[0] + (x - middle[0]) * 0.7, y) for x, y in star], wrong)
        return
    pen.ring(centre, radius * 0.9, radius * 0.18, colour)
    pen.polygon(_star(centre, radius * 0.72, points, 0.45, 0.0), colour)


def _stitches(
    pen: Pen, start: Point, end: Point, *, level: int, colour: Colour, rng: np.random.Generator
) -> None:
    wobble = 0.04 if level == Photo.TELLING else 0.002
    steps = 14
    for i in range(steps):
        if level == Photo.TELLING and rng.random() < 0.3:
            continue
        x = start[0] + (end[0] - start[0]) * i / steps
        y = start[1] + (end[1] - start[1]) * i / steps + float(rng.normal(0, wobble))
        pen.line([(x, y), (x + (end[0] - start[0]) / steps * 0.55, y)], 0.018, colour)


def sneaker(pen: Pen, rng: np.random.Generator, *, brand: int, level: int) -> None:
    """A shoe seen from the side."""
    body = tint(rng, 60, 240)
    sole: Colour = (238, 236, 228)
    pen.polygon(
        [
            (0.08, 0.34),
            (0.3, 0.3),
            (0.42, 0.44),
            (0.72, 0.54),
            (0.94, 0.64),
            (0.94, 0.72),
            (0.06, 0.72),
        ],
        body,
    )
    pen.polygon([(0.04, 0.7), (0.97, 0.7), (0.95, 0.8), (0.06, 0.8)], sole)
    for i in range(4):
        pen.line(
            [(0.36 + 0.08 * i, 0.42 + 0.035 * i), (0.46 + 0.08 * i, 0.4 + 0.035 * i)], 0.016, sole
        )
    _stitches(pen, (0.1, 0.66), (0.9, 0.67), level=level, colour=shade(body, 0.5), rng=rng)
    mark(pen, (0.3, 0.52), 0.2, brand=brand, level=level, rng=rng)


def handbag(pen: Pen, rng: np.random.Generator, *, brand: int, level: int) -> None:
    """A bag with a handle and a flap."""
    body = tint(rng, 50, 200)
    pen.ring((0.5, 0.34), 0.2, 0.035, shade(body, 0.7))
    pen.polygon([(0.12, 0.36), (0.88, 0.36), (0.94, 0.88), (0.06, 0.88)], body)
    pen.polygon([(0.12, 0.36), (0.88, 0.36), (0.8, 0.58), (0.2, 0.58)], shade(body, 0.85))
    _stitches(pen, (0.12, 0.83), (0.88, 0.83), level=level, colour=(236, 220, 180), rng=rng)
    _stitches(pen, (0.2, 0.55), (0.8, 0.55), level=level, colour=(236, 220, 180), rng=rng)
    mark(pen, (0.5, 0.64), 0.21, brand=brand, level=level, rng=rng)


def watch(pen: Pen, rng: np.random.Generator, *, brand: int, level: int) -> None:
    """A wrist watch with the mark on its face."""
    strap, case = tint(rng, 20, 140), jitter((190, 186, 170), rng, 30)
    pen.polygon([(0.38, 0.0), (0.62, 0.0), (0.64, 0.3), (0.36, 0.3)], strap)
    pen.polygon([(0.36, 0.7), (0.64, 0.7), (0.62, 1.0), (0.38, 1.0)], strap)
    pen.ellipse((0.5, 0.5), (0.31, 0.31), case)
    pen.ellipse((0.5, 0.5), (0.26, 0.26), tint(rng, 190, 250))
    for i in range(12):
        turn = math.pi * i / 6 + (float(rng.normal(0, 0.14)) if level == Photo.TELLING else 0)
        pen.ellipse(
            (0.5 + 0.22 * math.sin(turn), 0.5 - 0.22 * math.cos(turn)), (0.012, 0.012), (20, 20, 20)
        )
    mark(pen, (0.5, 0.45), 0.19, brand=brand, level=level, rng=rng)
    pen.line([(0.5, 0.5), (0.62, 0.6)], 0.02, (20, 20, 20))
    pen.line([(0.5, 0.5), (0.42, 0.66)], 0.014, (20, 20, 20))
