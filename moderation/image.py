"""Listing images: safe decoding, removal of metadata, perceptual hash and tensor; one way for training and serving."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.containers import Container, take_apart
from moderation.errors import InvalidListing
from moderation.listing import MAX_IMAGE_BYTES
from moderation.pdq import pdq_bits

MAX_PIXELS: Final = 40_000_000
"""Pixels of one image: 160 MB as Pillow keeps RGB, and up to 610 MB while a WebP is decoded (Pillow's decoder holds two
canvases of four bytes a pixel, and hands out a third), so that one upload cannot exhaust a worker."""

_LARGE_PIXELS: Final = 10_000_000
_LARGE_AT_ONCE: Final = threading.BoundedSemaphore(2)
"""Images beyond `_LARGE_PIXELS` that a process unfolds whole at once; others of that size wait."""

WORKING_SIDE: Final = 768
"""A JPEG whose sides are both at least twice this is decoded at a fraction of its size; no tower sees more."""

HASH_SIDE: Final = 512
"""An image is reduced to this longer side before it is hashed, as PDQ's authors advise."""

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")

_BAND_PIXELS: Final = 2**20

# What Pillow and its decoders raise on bytes that lie about themselves.
_BROKEN: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_BOMB: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A bomb that Pillow sees before we do is refused there, rather than announced on standard error.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def decode(data: bytes, *, field: str = "image") -> Image.Image:
    """Return the pixels of an encoded image, upright, on white, as RGB without metadata.

    A JPEG with both sides of at least 2 x `WORKING_SIDE` comes reduced by 2, 4 or 8; everything else
    keeps its size. Of an animation or a multi-picture file only the first picture is decoded;
    `image.info["frames"]` says how many frames an animation has.

    Args:
        data: the file's bytes.
        field: name of the image in errors, such as `images[2]`.

    Raises:
        InvalidListing: naming `field`, when the bytes are empty, too many, of another format,
            truncated, corrupt or would unfold to more than `MAX_PIXELS`.
    """
    return _decode(data, field, lambda _: (WORKING_SIDE, WORKING_SIDE))


def decode_view(data: bytes, *, field: str = "image") -> Image.Image:
    """Return what is hashed of an encoded image, as `hash_view(decode(data))` but sooner.

    A large JPEG is decoded at the fraction of its size that the view takes; a hash differs in a few bits of 256 for
    that, and is as near to the hashes of its copies in other sizes. Every byte is still read, so that what does not
    decode is refused here, too.

    Raises:
        InvalidListing: as `decode` does.
    """
    return _decode(data, field, _view_size, hash_view)


def _decode(
    data: bytes,
    field: str,
    least: Callable[[tuple[int, int]], tuple[int, int]],
    finish: Callable[[Image.Image], Image.Image] = lambda image: image,
) -> Image.Image:
    """Return what `finish` makes of an image as `decode` gives it; a JPEG comes reduced to no less than `least`."""
    container = _open(data, field)
    _check_size(container.canvas, field)
    try:
        with ExitStack() as held:
            is_large = _is_large(container.canvas)
            if is_large:  # a WebP takes its memory when it is opened, others when they are loaded
                held.enter_context(_LARGE_AT_ONCE)
            file = io.BytesIO(container.pixels)
            opened = held.enter_context(Image.open(file, formats=(container.format,)))
            _check_size(opened.size, field)
            opened.draft(None, least(opened.size))
            if not is_large and _is_large(opened.size):
                held.enter_context(_LARGE_AT_ONCE)
            opened.load()
            _check_size(opened.size, field)
            image = _to_rgb(opened)
            turn = _UPRIGHT.get(container.orientation)
            upright = image.transpose(turn) if turn is not None else image
            upright.info = {"frames": container.frames}
            return finish(upright)
    except _BOMB as error:
        reason = f"unfolds to more than the {MAX_PIXELS:,} pixels that are allowed"
        raise InvalidListing(field, reason) from error
    except _BROKEN as error:
        reason = f"is a {container.format} that cannot be decoded; it is truncated or corrupt"
        raise InvalidListing(field, reason) from error


def strip(data: bytes, *, field: str = "image") -> bytes:
    """Return the file without its metadata (EXIF, XMP, comments, embedded pictures), pixels untouched.

    Only the orientation stays, as the one remaining tag: the stripped file decodes to exactly the
    pixels of the original. A file without metadata is returned as it is, bit for bit. A GIF too: it
    has no place for EXIF.

    Raises:
        InvalidListing: naming `field`, when the bytes are empty, too many or of another format.
    """
    return _open(data, field).public


def hash_view(image: Image.Image) -> Image.Image:
    """Return what `pdq` sees of an image: at most `HASH_SIDE` on its longer side; both have one hash."""
    if max(image.size) <= HASH_SIDE:
        return image
    return image.resize(_view_size(image.size), Image.Resampling.BOX)


def _view_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which an image is hashed: at most `HASH_SIDE` on its longer side."""
    scale = min(1.0, HASH_SIDE / max(size))
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def pdq(image: Image.Image) -> tuple[npt.NDArray[np.uint64], int]:
    """Return the PDQ hash of an image, four words of 64 bits, and its quality from 0 to 100.

    A quality below 50 says that the image holds too little detail for its hash to mean much; it is told, never hidden.

    Source:
        PDQ, https://github.com/facebook/ThreatExchange/tree/main/pdq.
    """
    image = hash_view(image)
    bits, quality = pdq_bits(np.asarray(image.convert("RGB")))
    return np.packbits(bits).view(">u8").astype(np.uint64), quality


def hamming(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return the number of bits in which hashes differ, from 0 to 256; leading axes broadcast.

    >>> int(hamming(np.zeros(4, np.uint64), np.array([1, 3, 0, 0], np.uint64)))
    3
    """
    distance: npt.NDArray[np.int64] = np.bitwise_count(first ^ second).sum(axis=-1, dtype=np.int64)
    return distance


def central_square(image: Image.Image, size: int, crop: float = 1.0) -> Image.Image:
    """Return what a tower sees of an image, as `size` x `size` pixels of 8 bits: see `to_tensor`.

    A square of that size comes back as it is.

    Raises:
        ValueError: if `crop` is not in (0, 1].
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop must be in (0, 1], not {crop}")
    width, height = image.size
    side = min(width, height) * crop
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def to_tensor(
    image: Image.Image,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    crop: float = 1.0,
) -> npt.NDArray[np.float32]:
    """Return an image as the input of a tower: float32[3, size, size].

    The central square that holds the share `crop` of the shorter side is resized bicubically; then
    (x / 255 - mean) / std. This stands for resizing the shorter side to size / crop and cropping the
    centre, without ever building the long side of a narrow image.

    Raises:
        ValueError: if `crop` is not in (0, 1].
    """
    return normalised(np.asarray(central_square(image, size, crop)), mean, std)


def normalised(
    pixels_HWC: npt.NDArray[np.uint8],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> npt.NDArray[np.float32]:
    """Return (x / 255 - mean) / std of pixels, uint8[H, W, C], as float32[C, H, W]."""
    scale = 1 / (255 * np.asarray(std, np.float32))
    shift = np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    values_HWC = np.asarray(pixels_HWC, np.float32) * scale.astype(np.float32) - shift
    return np.ascontiguousarray(values_HWC.transpose(2, 0, 1))


def _open(data: bytes, field: str) -> Container:
    """Return the container of an image file whose size in bytes is in bounds."""
    if not data:
        raise InvalidListing(field, "is empty; send the bytes of an image")
    if len(data) > MAX_IMAGE_BYTES:
        reason = f"has {len(data):,} bytes; at most {MAX_IMAGE_BYTES:,} are allowed"
        raise InvalidListing(field, reason)
    container = take_apart(data)
    if container is None:
        raise InvalidListing(field, f"is not an image of a known format; send {', '.join(FORMATS)}")
    return container


def _check_size(size: tuple[int, int] | None, field: str) -> None:
    if size is not None and not 0 < size[0] * size[1] <= MAX_PIXELS:
        reason = f"has {size[0]} x {size[1]} pixels; from 1 to {MAX_PIXELS:,} are allowed"
        raise InvalidListing(field, reason)


def _is_large(size: tuple[int, int] | None) -> bool:
    return size is not None and size[0] * size[1] > _LARGE_PIXELS


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return any decoded image as RGB: 16 bits scaled to 8, transparency laid on white."""
    if image.mode.startswith("I;16"):
        # Pillow would clip at 255 instead of scaling.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8), "L").convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return _on_white(image)
    # Pillow copies what is RGB already.
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Return an image without its transparency; band by band, as three whole layers would take twelve bytes a pixel."""
    width, height = image.size
    flat, rows = Image.new("RGB", image.size), max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(height, top + rows))).convert("RGBA")
        white = Image.new("RGBA", band.size, "white")
        flat.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return flat
