"""From an asset to the bytes of one photo of it: background, pose, light, noise, JPEG."""

import io
import math
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from marketplace import common_art, goods_art, weapons_art
from marketplace.pen import CANVAS, Pen, jitter, tint
from marketplace.sellers import Asset

GOODS: Final = {
    "sneaker": goods_art.sneaker,
    "handbag": goods_art.handbag,
    "watch": goods_art.watch,
}
WEAPONS: Final = {
    "pistol": weapons_art.pistol,
    "revolver": weapons_art.revolver,
    "rifle": weapons_art.rifle,
    "gun": weapons_art.gun,
    "knife": weapons_art.knife,
    "drill": weapons_art.drill,
    "glue_gun": weapons_art.glue_gun,
    "water_gun": weapons_art.water_gun,
    "holster": weapons_art.holster,
    "kitchen_knife": weapons_art.kitchen_knife,
}
PLAIN: Final = {
    "contact_banner": common_art.contact_banner,
    "card": common_art.card,
    "banner": common_art.banner,
    "box": common_art.box,
    "closeup": common_art.closeup,
    **WEAPONS,
}
_FILLS_FRAME: Final = frozenset({"contact_banner", "banner", "card", "closeup"})
_TEXTURES: Final = 6
_NOISE_SIDE: Final = 512
_FINGER: Final = 0.12


@cache
def _textures() -> list[npt.NDArray[np.float32]]:
    rng = np.random.default_rng(20260105)
    y, x = np.mgrid[0:CANVAS, 0:CANVAS].astype(np.float32) / CANVAS
    waves = [
        np.ones_like(x),
        1 + 0.10 * np.sin(40 * y + 6 * np.sin(5 * x)),
        1 + 0.14 * np.sign(np.sin(28 * x) * np.sin(28 * y)),
        1 + 0.10 * np.sin(90 * x) * np.sin(90 * y),
        0.75 + 0.5 * y,
        1 + 0.05 * rng.standard_normal((CANVAS, CANVAS)).cumsum(0).clip(-3, 3),
    ]
    return [wave.astype(np.float32)[..., None] for wave in waves]


@cache
def _noise() -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(20260106)
    return rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE, 1)).astype(np.float32)


def photograph(
    asset: Asset,
    rng: np.random.Generator,
    *,
    overlay: str = "",
    skew: float = 0.0,
    worn: bool = False,
) -> bytes:
    """Return one photo of `asset` as JPEG bytes.

    Args:
        asset: what is photographed; its seed fixes object and background.
        rng: what differs from photo to photo: pose, crop, light, noise, quality.
        overlay: words written across the picture.
        skew: 0 to 1, extra rotation and crop of a seller who wants not to be recognised.
        worn: a camera of another make: yellow cast, soft, grainy, strongly compressed.
    """
    canvas = _background(asset)
    own = np.random.default_rng((asset.seed, 1))
    fills = asset.kind in _FILLS_FRAME
    pen = Pen(
        canvas,
        centre=(CANVAS * own.uniform(0.45, 0.55), CANVAS * own.uniform(0.45, 0.55)),
        size=CANVAS * (own.uniform(0.78, 0.98) if fills else own.uniform(0.62, 0.9)),
        angle=float(own.normal(0, 0.06 if fills else 0.3)),
        mirrored=bool(own.random() < 0.5) and not fills,
    )
    _draw(asset, pen, own)
    if overlay:
        height = 0.11
        pen.box(-0.1, 0.4, 1.1, 0.6, (250, 250, 250))
        pen.text((0.5, 0.5), overlay[:22], height, (20, 20, 20))
    return _develop(canvas, rng, skew=skew, worn=worn)


def _draw(asset: Asset, pen: Pen, own: np.random.Generator) -> None:
    if asset.kind in GOODS:
        GOODS[asset.kind](pen, own, brand=asset.brand, level=asset.level)
    elif asset.kind in PLAIN:
        PLAIN[asset.kind](pen, own)
    else:
        common_art.ordinary(pen, own, asset.kind)


def _background(asset: Asset) -> Image.Image:
    own = np.random.default_rng((asset.seed, 0))
    base = np.array(tint(own, 70, 245), np.float32)
    if own.random() < 0.5:
        base = base.mean() + (base - base.mean()) * 0.25
    texture = _textures()[int(own.integers(_TEXTURES))]
    pixels: npt.NDArray[np.uint8] = np.clip(base * texture, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def _cover(canvas: Image.Image, rng: np.random.Generator) -> None:
    """A finger gets in the way, from one of the edges."""
    turn, reach = float(rng.uniform(0, 2 * math.pi)), CANVAS * float(rng.uniform(0.42, 0.52))
    x, y = CANVAS / 2 + reach * math.cos(turn), CANVAS / 2 + reach * math.sin(turn)
    radius = CANVAS * float(rng.uniform(0.08, 0.16))
    skin = jitter((206, 150, 120), rng, 40)
    ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=skin)


def _develop(canvas: Image.Image, rng: np.random.Generator, *, skew: float, worn: bool) -> bytes:
    side = int(rng.integers(160, 209))
    angle = float(rng.normal(0, 0.05 + 0.25 * skew))
    zoom = float(rng.uniform(0.92, 1.08) * (1 + 0.3 * skew * rng.random())) * side / CANVAS
    shift = rng.normal(0, 0.02 + 0.06 * skew, size=2) * CANVAS
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    middle, half = CANVAS / 2 + shift, side / 2
    matrix = (
        cos, sin, middle[0] - cos * half - sin * half,
        -sin, cos, middle[1] + sin * half - cos * half,
    )  # fmt: skip
    if rng.random() < _FINGER:
        _cover(canvas, rng)
    edge = canvas.getpixel((2, 2))
    taken = canvas.transform(
        (side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=edge
    )
    pixels = np.asarray(taken, np.float32)
    x, y = rng.integers(0, _NOISE_SIDE - side, size=2)
    grain = _noise()[y : y + side, x : x + side]
    cast = rng.normal(1, 0.05, size=3).astype(np.float32)
    left, right = (float(end) for end in rng.uniform(0.75, 1.2, size=2))
    light = np.linspace(left, right, side, dtype=np.float32)[:, None, None]
    strength = float(rng.uniform(2, 9))
    quality = int(rng.integers(55, 92))
    if worn:
        cast *= np.array([1.12, 1.0, 0.72], np.float32)
        strength, quality = strength + 14, 30
    pixels = pixels * (light * cast) + grain * strength
    out = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    out.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
