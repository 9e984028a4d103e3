"""Drawings of ordinary things, of parcels, and for the spam policy banners, cards and codes."""

import numpy as np

from marketplace.pen import Colour, Pen, jitter, shade, tint

_LOUD: tuple[Colour, ...] = (
    (220, 30, 40),
    (250, 200, 20),
    (20, 130, 220),
    (230, 40, 150),
    (20, 160, 70),
)


def _loud(rng: np.random.Generator) -> Colour:
    return jitter(_LOUD[int(rng.integers(len(_LOUD)))], rng)


def code(pen: Pen, left: float, top: float, side: float, rng: np.random.Generator) -> None:
    """A square code of black and white cells with its three corners."""
    cells = 15
    step = side / cells
    pen.box(left - step, top - step, left + side + step, top + side + step, (250, 250, 250))
    bits = rng.random((cells, cells)) < 0.48
    for row, column in np.argwhere(bits):
        x, y = left + column * step, top + row * step
        pen.box(x, y, x + step, y + step, (10, 10, 10))
    for x, y in ((left, top), (left + side - 4 * step, top), (left, top + side - 4 * step)):
        pen.box(x, y, x + 4 * step, y + 4 * step, (10, 10, 10))
        pen.box(x + step, y + step, x + 3 * step, y + 3 * step, (250, 250, 250))


def contact_banner(pen: Pen, rng: np.random.Generator) -> None:
    """A call to write outside the marketplace: number, speech bubble, promise."""
    paper = _loud(rng) if rng.random() < 0.5 else jitter((240, 240, 236), rng)
    ink: Colour = (15, 15, 15) if sum(paper) > 330 else (250, 250, 250)
    pen.box(-0.05, 0.05, 1.05, 0.95, paper)
    number = f"+{rng.integers(20, 90)} {rng.integers(100, 999)} {rng.integers(1000, 9999)}"
    words = ("EARN DAILY", "FREE MONEY", "WRITE ME", "CHAT NOW", "EASY CASH", "JOIN US")
    pen.text((0.5, 0.16), words[int(rng.integers(len(words)))], 0.13, ink)
    pen.text((0.5, 0.86), number, 0.11, ink)
    bubble = jitter((36, 190, 90), rng) if rng.random() < 0.85 else jitter((40, 150, 220), rng)
    pen.ellipse((0.25, 0.5), (0.16, 0.16), bubble)
    pen.polygon([(0.12, 0.58), (0.22, 0.64), (0.1, 0.7)], bubble)
    pen.ring((0.25, 0.5), 0.08, 0.03, (250, 250, 250))
    for i in range(4):
        pen.line([(0.5, 0.36 + 0.09 * i), (0.92, 0.36 + 0.09 * i)], 0.02, shade(paper, 0.6))


def card(pen: Pen, rng: np.random.Generator) -> None:
    """A printed card or stand with a code: somebody's product, or somebody's trap."""
    paper = jitter((238, 236, 230), rng) if rng.random() < 0.8 else _loud(rng)
    pen.box(0.08, 0.12, 0.92, 0.88, paper)
    code(pen, 0.16 + 0.3 * float(rng.random()), 0.22, 0.4, rng)
    words = ("MENU", "WIFI", "SCAN ME", "INFO", "OPEN", "SHOP")
    pen.text((0.5, 0.77), words[int(rng.integers(len(words)))], 0.11, shade(paper, 0.3))


def banner(pen: Pen, rng: np.random.Generator) -> None:
    """An honest, loud sale banner: a burst, a percentage, big words."""
    paper, burst = _loud(rng), _loud(rng)
    pen.box(-0.05, 0.05, 1.05, 0.95, paper)
    turns = np.linspace(0, 2 * np.pi, 25)
    radii = np.where(np.arange(25) % 2 == 0, 0.36, 0.27)
    points = [
        (0.5 + r * np.cos(t), 0.56 + r * np.sin(t)) for t, r in zip(turns, radii, strict=True)
    ]
    pen.polygon(points, burst)
    ink: Colour = (255, 255, 255) if sum(burst) < 420 else (20, 20, 20)
    pen.text((0.5, 0.56), f"-{int(rng.integers(1, 9)) * 10}%", 0.24, ink)
    pen.text(
        (0.5, 0.14), ("SALE", "BIG SALE", "BEST PRICE", "NEW")[int(rng.integers(4))], 0.14, ink
    )


def box(pen: Pen, rng: np.random.Generator) -> None:
    """A closed parcel."""
    card_board = jitter((176, 134, 88), rng, 22)
    pen.polygon([(0.1, 0.36), (0.56, 0.24), (0.92, 0.38), (0.46, 0.52)], shade(card_board, 1.2))
    pen.polygon([(0.1, 0.36), (0.46, 0.52), (0.46, 0.92), (0.1, 0.76)], card_board)
    pen.polygon([(0.46, 0.52), (0.92, 0.38), (0.92, 0.76), (0.46, 0.92)], shade(card_board, 0.8))
    pen.line([(0.33, 0.3), (0.69, 0.45)], 0.05, (222, 206, 160))


def closeup(pen: Pen, rng: np.random.Generator) -> None:
    """A close view of a surface: weave, grain or scratches."""
    base = tint(rng)
    pen.box(-0.5, -0.5, 1.5, 1.5, base)
    slope = float(rng.uniform(-0.5, 0.5))
    for i in range(int(rng.integers(8, 22))):
        y = -0.2 + i * 0.08
        pen.line([(-0.3, y), (1.3, y + slope)], 0.02, shade(base, float(rng.uniform(0.7, 1.3))))


def ordinary(pen: Pen, rng: np.random.Generator, kind: str) -> None:
    """One of the things that nobody minds."""
    _ORDINARY[kind](pen, rng, tint(rng))


def _lamp(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.polygon([(0.3, 0.1), (0.7, 0.1), (0.86, 0.44), (0.14, 0.44)], colour)
    pen.box(0.47, 0.44, 0.53, 0.86, shade(colour, 0.5))
    pen.ellipse((0.5, 0.88), (0.24, 0.06), shade(colour, 0.5))


def _chair(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.box(0.24, 0.06, 0.76, 0.42, colour)
    pen.box(0.2, 0.5, 0.8, 0.58, shade(colour, 0.8))
    for x in (0.22, 0.74):
        pen.box(x, 0.42, x + 0.05, 0.96, shade(colour, 0.6))


def _mug(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.ring((0.76, 0.52), 0.15, 0.06, colour)
    pen.polygon([(0.18, 0.26), (0.74, 0.26), (0.7, 0.82), (0.22, 0.82)], colour)
    pen.ellipse((0.46, 0.26), (0.28, 0.07), shade(colour, 0.6))


def _book(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.box(0.2, 0.08, 0.8, 0.92, colour)
    pen.box(0.2, 0.08, 0.26, 0.92, shade(colour, 0.6))
    pen.box(0.34, 0.2, 0.72, 0.34, tint(rng, 150, 250))


def _phone(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.box(0.3, 0.04, 0.7, 0.96, (24, 24, 28))
    pen.box(0.33, 0.1, 0.67, 0.9, colour)
    for i in range(8):
        x, y = 0.36 + 0.08 * (i % 4), 0.2 + 0.14 * (i // 4)
        pen.box(x, y, x + 0.055, y + 0.06, tint(rng))


def _ball(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.ellipse((0.5, 0.5), (0.38, 0.38), colour)
    pen.line([(0.12, 0.5), (0.88, 0.5)], 0.02, shade(colour, 0.4))
    pen.ring((0.1, 0.5), 0.3, 0.02, shade(colour, 0.4))
    pen.ellipse((0.38, 0.34), (0.08, 0.06), shade(colour, 1.5))


def _bottle(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.box(0.36, 0.32, 0.64, 0.96, colour)
    pen.polygon([(0.36, 0.32), (0.64, 0.32), (0.56, 0.18), (0.44, 0.18)], shade(colour, 0.9))
    pen.box(0.44, 0.06, 0.56, 0.18, tint(rng))
    pen.box(0.36, 0.5, 0.64, 0.74, tint(rng, 180, 250))


def _plant(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    leaf = jitter((50, 140, 60), rng, 30)
    for turn in np.linspace(-1.2, 1.2, 7):
        tip = (0.5 + 0.36 * np.sin(turn), 0.6 - 0.5 * np.cos(turn))
        pen.line([(0.5, 0.64), tip], 0.07, shade(leaf, float(rng.uniform(0.8, 1.2))))
    pen.polygon([(0.3, 0.62), (0.7, 0.62), (0.64, 0.94), (0.36, 0.94)], colour)


def _shirt(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.polygon(
        [(0.3, 0.14), (0.7, 0.14), (0.98, 0.36), (0.86, 0.5), (0.74, 0.4), (0.74, 0.92),
         (0.26, 0.92), (0.26, 0.4), (0.14, 0.5), (0.02, 0.36)],
        colour,
    )  # fmt: skip
    pen.ellipse((0.5, 0.14), (0.1, 0.06), shade(colour, 0.5))
    if rng.random() < 0.5:
        pen.ellipse((0.5, 0.5), (0.12, 0.12), tint(rng))


def _table(pen: Pen, rng: np.random.Generator, colour: Colour) -> None:
    pen.polygon([(0.18, 0.3), (0.82, 0.3), (0.98, 0.46), (0.02, 0.46)], colour)
    for x in (0.06, 0.3, 0.66, 0.9):
        pen.box(x, 0.46, x + 0.04, 0.92, shade(colour, 0.6))


_ORDINARY = {
    "lamp": _lamp,
    "chair": _chair,
    "mug": _mug,
    "book": _book,
    "phone": _phone,
    "ball": _ball,
    "bottle": _bottle,
    "plant": _plant,
    "shirt": _shirt,
    "table": _table,
}
