"""Listings to attack in tests, with a photo that has edges, shades and grain."""

import numpy as np
from PIL import Image, ImageDraw

from moderation.attacks.registry import Subject

WORDS = ("pistol", "glock", "brass knuckles", "whatsapp", "ammo")
TEXT_ATTACKS = (
    "homoglyph",
    "leet",
    "zero_width",
    "separators",
    "spacing",
    "typos",
    "transliteration",
    "benign_padding",
)
IMAGE_ATTACKS = (
    "rotation",
    "crop",
    "pad",
    "blur",
    "jpeg",
    "noise",
    "watermark",
    "overlay",
    "mirror",
    "colour",
    "screenshot_frame",
)


def photo(seed: int = 0, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Return a picture that none of the attacks leaves as it is; small enough not to be reduced."""
    rng = np.random.default_rng(seed)
    width, height = size
    shade_HW = np.linspace(60, 190, width)[None, :] + np.linspace(-30, 30, height)[:, None]
    grain_HWC = rng.normal(size=(height, width, 3)) * 4
    image = Image.fromarray((shade_HW[..., None] + grain_HWC).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.3, height * 0.3, width * 0.6, height * 0.8), fill=(200, 40, 40))
    draw.rectangle((width * 0.45, height * 0.1, width * 0.52, height * 0.9), fill=(20, 20, 90))
    draw.polygon(
        [(width * 0.7, height * 0.2), (width * 0.9, height * 0.5), (width * 0.65, height * 0.6)],
        fill=(30, 150, 70),
    )
    return image


def subject() -> Subject:
    """Return a listing that every attack applies to."""
    return Subject(
        title="Selling real Glock 19 pistol, with ammo",
        description="Bought last year and used twice. Brass knuckles too. Ask me on whatsapp about delivery.",
        images=(photo(1), photo(2, (240, 320))),
        words=WORDS,
        neighbour=Subject("Garden chair, like new", "Oak wood. Two years old. Collection only."),
    )
