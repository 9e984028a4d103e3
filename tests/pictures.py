"""Pictures with enough in them to be hashed."""

import io

import numpy as np
from PIL import Image


def a_picture(seed: int, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Return a picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    """Return a picture as a file's bytes."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
