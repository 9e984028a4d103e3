"""Images: what is hostile is refused by name, and what is stripped shows the same pixels."""

import io
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from marketplace.camera import photograph
from marketplace.sellers import Asset
from moderation.containers import take_apart
from moderation.errors import InvalidListing
from moderation.image import MAX_PIXELS, decode, pdq, strip
from tests.fuzz.mutations import of_bytes, of_pieces
from tests.fuzz.target import Target

_REGROWN: Final = 26
"""Bytes of the smallest block of EXIF with an orientation: what a file may grow by whose own block is smaller yet."""


@cache
def photos() -> list[bytes]:
    """Return photos of the simulated marketplace in every format, with and without what gets stripped."""
    found = [
        photograph(Asset(f"p{n}", kind, 0, 0, n), np.random.default_rng(n))
        for n, kind in enumerate(("mug", "drill"))
    ]
    picture = Image.open(io.BytesIO(found[0])).convert("RGB").resize((72, 56))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A Camera"
    for kind in ("JPEG", "PNG", "WEBP"):
        found += [_encoded(picture, kind), _encoded(picture, kind, exif=exif)]
    clear = picture.convert("RGBA")
    clear.putalpha(120)
    found += [_encoded(clear, kind) for kind in ("PNG", "WEBP")]
    found += [
        _encoded(picture, "WEBP", lossless=True),
        _encoded(picture, "JPEG", progressive=True, comment=b"hello"),
    ]
    found += [_encoded(picture.convert(mode), "PNG") for mode in ("1", "L", "P", "LA", "I;16")]
    found += [_encoded(picture.convert("CMYK"), "JPEG"), _encoded(picture.convert("L"), "JPEG")]
    frames = [picture.rotate(90 * n) for n in range(3)]
    for kind in ("GIF", "WEBP", "PNG"):
        found.append(
            _encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)
        )
    found.append(_encoded(picture, "GIF"))
    return found


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check_image(data: bytes) -> int:
    """Decode, strip and hash an image, and compare what the stripped file shows."""
    try:
        public = strip(data)
    except InvalidListing as error:
        assert len(str(error)) < 1_000
        return len(data)
    units = len(data) + _pixels(data)
    assert len(public) <= len(data) or len(public) - len(data) <= _REGROWN, (
        "strip made a file larger"
    )
    try:
        image = decode(data)
    except InvalidListing as error:
        assert len(str(error)) < 1_000
        try:
            decode(public)
        except InvalidListing:
            return units
        raise AssertionError("the stripped file decodes, the file itself does not") from error
    assert image.mode == "RGB"
    assert 0 < image.width * image.height <= MAX_PIXELS
    assert strip(public) == public, "what is stripped is stripped again"
    shown = decode(public)
    assert shown.size == image.size, "strip changed the size"
    assert shown.tobytes() == image.tobytes(), "strip changed the pixels"
    words, quality = pdq(image)
    assert words.shape == (4,)
    assert 0 <= quality <= 100
    return units


def _pixels(data: bytes) -> int:
    """Return how many pixels a header makes a decoder allocate."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return min(opened.width * opened.height, MAX_PIXELS)
    except Exception:
        container = take_apart(data)
        width, height = (container.canvas if container else None) or (0, 0)
        return min(width * height, MAX_PIXELS)


def _split(data: bytes) -> list[bytes]:
    """Return the head of a file and its chunks, segments or blocks."""
    if data.startswith(b"\x89PNG"):
        return [data[:8], *_cut(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))]
    if data.startswith(b"RIFF"):
        sizes = lambda at: 8 + (size := int.from_bytes(data[at + 4 : at + 8], "little")) + size % 2  # noqa: E731
        return [data[:12], *_cut(data, 12, sizes)]
    if data.startswith(b"\xff\xd8"):
        segments = lambda at: 2 + int.from_bytes(data[at + 2 : at + 4], "big")  # noqa: E731
        scan = data.find(b"\xff\xda")
        return [data[:2], *_cut(data[:scan], 2, segments), data[scan:-2], data[-2:]]
    third = len(data) // 3
    return [data[:13], data[13:third], data[third:-1], data[-1:]]


def _cut(data: bytes, at: int, size: "object") -> Iterator[bytes]:
    assert callable(size)
    while at < len(data):
        following = at + max(1, size(at))
        yield data[at:following]
        at = following


def _join(pieces: list[bytes]) -> bytes:
    """Return a file of pieces, its checksums and its declared size made right: a decoder looks further then."""
    if pieces and pieces[0].startswith(b"\x89PNG"):
        return pieces[0] + b"".join(map(_summed, pieces[1:]))
    data = b"".join(pieces)
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    return data


def _summed(chunk: bytes) -> bytes:
    body = chunk[4:-4]
    if len(chunk) < 12:
        return chunk
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


_OF_PIECES: Final = of_pieces(_split, _join)


def _mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return (_OF_PIECES if rng.random() < 0.5 else of_bytes)(rng, seeds)


@cache
def _large() -> list[bytes]:
    """Return small files of nearly as many pixels as are allowed."""
    sides = (6_300, 6_300)
    clear = Image.new("RGBA", sides, (1, 2, 3, 4))
    painted = Image.new("P", sides, 3)
    return [
        _encoded(clear, "PNG"),
        _encoded(painted, "GIF", transparency=3),
        _encoded(clear.convert("RGB"), "WEBP"),
        _encoded(Image.new("RGB", sides, "teal"), "JPEG"),
        _encoded(Image.new("L", (39_000_000 // 40, 40), 7), "PNG"),
    ]


def check_large(data: bytes) -> int:
    """Decode an image; its memory and time are what matters, and one that is refused late took them too."""
    try:
        image = decode(data)
    except InvalidListing:
        return len(data) + _pixels(data)
    return len(data) + image.width * image.height


LARGE_IMAGES: Final = Target(
    name="large-image",
    seeds=_large,
    mutate=_mutate,
    check=check_large,
    share=0.05,
    ms=2_500,
    us_per_unit=0.1,
    unit="bytes and pixels",
    megabytes=30,
    bytes_per_unit=16,
    modules=(),
)
"""Bytes of a pixel: of WebP, two canvases with transparency, what is handed out, and the picture; 8 of others."""

IMAGES: Final = Target(
    name="image",
    seeds=photos,
    mutate=_mutate,
    check=check_image,
    share=20,
    ms=30,
    us_per_unit=0.5,
    unit="bytes and pixels",
    megabytes=60,
    bytes_per_unit=24,  # decoded twice, and compared
    modules=("moderation.containers", "moderation.image"),
)
