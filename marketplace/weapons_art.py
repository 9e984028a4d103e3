"""Drawings for the weapons policy: firearms, what only looks like them, and the tools and toys around them."""

import numpy as np

from marketplace.pen import Colour, Pen, jitter, shade, tint

_STEEL = ((38, 40, 46), (58, 60, 66), (84, 86, 92), (30, 30, 32))
_PLASTIC = ((110, 118, 76), (146, 146, 150), (166, 146, 104), (88, 108, 118), (70, 70, 76))
_TOY = ((226, 60, 48), (40, 132, 220), (52, 180, 84), (240, 196, 40), (196, 64, 176))
_WOOD = ((104, 66, 36), (128, 84, 48), (78, 50, 30))
_ORANGE: Colour = (244, 112, 24)


def _one(colours: tuple[Colour, ...], rng: np.random.Generator, amount: int = 12) -> Colour:
    return jitter(colours[int(rng.integers(len(colours)))], rng, amount)


def _slide(pen: Pen, rng: np.random.Generator, body: Colour, grip: Colour) -> float:
    tall = float(rng.uniform(0.12, 0.17))
    end = float(rng.uniform(0.86, 0.97))
    lean = float(rng.uniform(0.04, 0.11))
    pen.polygon([(0.2, 0.42), (0.36, 0.42), (0.32 - lean, 0.86), (0.12 - lean, 0.84)], grip)
    pen.box(0.16, 0.27, end, 0.27 + tall, body)
    pen.box(0.18, 0.27 + tall, end - 0.12, 0.34 + tall, shade(body, 0.85))
    pen.ring((0.42, 0.47), 0.06, 0.025, shade(body, 0.8))
    pen.line([(0.42, 0.43), (0.40, 0.5)], 0.02, shade(body, 0.7))
    return end


def pistol(pen: Pen, rng: np.random.Generator) -> None:
    """A self-loading pistol of steel: serrations, sights, ejection port, often cartridges beside it."""
    body = _one(_STEEL, rng)
    end = _slide(pen, rng, body, _one(_STEEL + _WOOD, rng))
    for i in range(int(rng.integers(4, 7))):
        pen.line([(0.19 + i * 0.022, 0.28), (0.18 + i * 0.022, 0.38)], 0.009, shade(body, 1.7))
    pen.box(0.52, 0.29, 0.64, 0.34, shade(body, 1.9))
    pen.box(end - 0.05, 0.24, end - 0.02, 0.27, shade(body, 0.6))
    pen.box(0.18, 0.24, 0.22, 0.27, shade(body, 0.6))
    pen.ellipse((end - 0.005, 0.33), (0.012, 0.03), (8, 8, 8))
    _cartridges(pen, rng, chance=0.85)


def revolver(pen: Pen, rng: np.random.Generator) -> None:
    """A revolver: drum, hammer, round grip of wood."""
    body = _one(_STEEL, rng)
    end = float(rng.uniform(0.84, 0.98))
    pen.polygon([(0.2, 0.42), (0.34, 0.46), (0.26, 0.84), (0.08, 0.8)], _one(_WOOD, rng))
    pen.box(0.24, 0.3, 0.44, 0.5, body)
    pen.box(0.44, 0.3, end, 0.38, shade(body, 1.15))
    pen.ellipse((0.44, 0.4), (0.1, 0.095), shade(body, 1.35))
    for i in range(4):
        pen.line([(0.36, 0.34 + i * 0.04), (0.52, 0.34 + i * 0.04)], 0.008, shade(body, 0.6))
    pen.polygon([(0.22, 0.32), (0.28, 0.32), (0.2, 0.22)], shade(body, 0.8))
    pen.ring((0.42, 0.55), 0.055, 0.022, shade(body, 0.8))
    _cartridges(pen, rng, chance=0.85)


def rifle(pen: Pen, rng: np.random.Generator) -> None:
    """A long gun: stock, magazine, barrel, often a scope."""
    body, wood = _one(_STEEL, rng), _one(_WOOD + _STEEL, rng)
    pen.polygon([(0.0, 0.46), (0.3, 0.44), (0.3, 0.54), (0.04, 0.64)], wood)
    pen.box(0.28, 0.42, 0.62, 0.53, body)
    pen.box(0.6, 0.44, 0.8, 0.51, wood)
    pen.box(0.78, 0.455, 1.04, 0.485, shade(body, 1.2))
    pen.polygon([(0.44, 0.53), (0.53, 0.53), (0.58, 0.74), (0.48, 0.75)], shade(body, 0.8))
    pen.polygon([(0.32, 0.53), (0.38, 0.53), (0.35, 0.66), (0.29, 0.65)], shade(body, 0.7))
    if rng.random() < 0.6:
        pen.box(0.36, 0.35, 0.6, 0.4, shade(body, 0.7))
        pen.box(0.33, 0.335, 0.39, 0.415, shade(body, 0.6))
    _cartridges(pen, rng, chance=0.7)


def _cartridges(pen: Pen, rng: np.random.Generator, *, chance: float) -> None:
    if rng.random() > chance:
        return
    brass = jitter((206, 164, 72), rng)
    for i in range(int(rng.integers(3, 8))):
        x = 0.48 + 0.075 * i
        pen.box(x, 0.72, x + 0.04, 0.84, brass)
        pen.polygon([(x, 0.72), (x + 0.04, 0.72), (x + 0.02, 0.66)], (150, 84, 52))


def gun(pen: Pen, rng: np.random.Generator) -> None:
    """A replica that is sold as a toy, as a prop or as something else: plain, of plastic, tip not always orange."""
    body = _one(_PLASTIC, rng)
    end = _slide(pen, rng, body, shade(body, float(rng.uniform(0.7, 1.2))))
    if rng.random() < 0.65:
        pen.box(end - 0.05, 0.27, end, 0.4, jitter(_ORANGE, rng))
    pen.line([(0.24, 0.34), (0.7, 0.34)], 0.008, shade(body, 0.8))


def knife(pen: Pen, rng: np.random.Generator) -> None:
    """A folding or fixed blade, neither for the kitchen nor plainly a weapon."""
    steel, handle = jitter((176, 180, 186), rng), _one(_PLASTIC + _WOOD, rng)
    belly = float(rng.uniform(0.05, 0.1))
    pen.polygon([(0.44, 0.46), (0.86, 0.45), (0.98, 0.5), (0.84, 0.5 + belly), (0.44, 0.55)], steel)
    pen.box(0.06, 0.455, 0.46, 0.56, handle)
    pen.box(0.43, 0.43, 0.46, 0.585, shade(steel, 0.6))
    for i in range(3):
        pen.ellipse((0.14 + 0.11 * i, 0.51), (0.013, 0.013), shade(steel, 0.7))


def drill(pen: Pen, rng: np.random.Generator) -> None:
    """A cordless drill: thick body, chuck, battery foot."""
    body = _one(_TOY + _PLASTIC, rng)
    pen.polygon([(0.3, 0.5), (0.44, 0.5), (0.38, 0.8), (0.24, 0.8)], shade(body, 0.75))
    pen.box(0.16, 0.28, 0.64, 0.52, body)
    pen.polygon([(0.64, 0.3), (0.76, 0.35), (0.76, 0.45), (0.64, 0.5)], (60, 60, 62))
    pen.box(0.76, 0.385, 0.98, 0.415, (170, 170, 174))
    pen.box(0.16, 0.78, 0.48, 0.92, (48, 48, 50))
    for i in range(4):
        pen.line([(0.22 + 0.04 * i, 0.33), (0.22 + 0.04 * i, 0.46)], 0.012, shade(body, 0.6))


def glue_gun(pen: Pen, rng: np.random.Generator) -> None:
    """A glue gun: nozzle, stick of glue behind, cable."""
    body = _one(_TOY, rng)
    pen.polygon([(0.28, 0.48), (0.42, 0.48), (0.36, 0.84), (0.22, 0.82)], body)
    pen.polygon([(0.2, 0.32), (0.68, 0.32), (0.76, 0.4), (0.68, 0.5), (0.2, 0.5)], shade(body, 0.9))
    pen.polygon([(0.76, 0.36), (0.9, 0.4), (0.76, 0.44)], (222, 170, 60))
    pen.box(0.0, 0.385, 0.2, 0.43, (236, 234, 224))
    pen.line([(0.28, 0.83), (0.2, 0.95), (0.05, 0.9), (0.0, 1.0)], 0.02, (30, 30, 30))


def water_gun(pen: Pen, rng: np.random.Generator) -> None:
    """A water gun: loud colours and a tank on top."""
    body, tank = _one(_TOY, rng), _one(_TOY, rng)
    _slide(pen, rng, body, tank)
    pen.ellipse((0.4, 0.2), (0.17, 0.11), tank)
    pen.box(0.84, 0.3, 0.99, 0.37, _one(_TOY, rng))
    pen.ellipse((0.4, 0.17), (0.08, 0.03), shade(tank, 1.5))


def holster(pen: Pen, rng: np.random.Generator) -> None:
    """A holster of leather, empty."""
    leather = _one(_WOOD, rng, 24)
    pen.polygon(
        [(0.2, 0.2), (0.62, 0.2), (0.66, 0.5), (0.92, 0.62), (0.88, 0.8), (0.4, 0.7)], leather
    )
    pen.line([(0.24, 0.24), (0.6, 0.24), (0.63, 0.52), (0.86, 0.64)], 0.01, shade(leather, 1.6))
    pen.box(0.26, 0.12, 0.54, 0.3, shade(leather, 0.8))
    pen.ellipse((0.4, 0.22), (0.025, 0.025), (200, 180, 110))


def kitchen_knife(pen: Pen, rng: np.random.Generator) -> None:
    """A broad kitchen knife, often on a board."""
    if rng.random() < 0.5:
        pen.box(0.02, 0.2, 0.98, 0.82, jitter((206, 168, 120), rng))
    steel = jitter((206, 208, 212), rng)
    pen.polygon([(0.36, 0.42), (0.94, 0.42), (0.9, 0.52), (0.7, 0.62), (0.36, 0.63)], steel)
    pen.box(0.04, 0.42, 0.37, 0.51, tint(rng, 20, 120))
