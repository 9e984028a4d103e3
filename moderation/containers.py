"""Image files as containers: what they carry beside pixels, read and removed without decoding or re-encoding them."""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_GIF: Final = (b"GIF87a", b"GIF89a")

_TIFF_HEADERS: Final = {b"II*\x00": "<", b"MM\x00*": ">"}
_ORIENTATION_TAG: Final = 0x0112
_MAX_TAGS: Final = 512

# What ends a scan: a marker that is neither a stuffed zero nor a restart.
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Markers without a length, which no header has: a decoder that skips them would see what we did not.
_BARE_MARKERS: Final = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
_PNG_PIXELS: Final = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_PNG_PRIVATE: Final = frozenset({b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME"})
_WEBP_PRIVATE: Final = frozenset({b"EXIF", b"XMP "})
_WEBP_EXIF_FLAG: Final = 0x08
_WEBP_XMP_FLAG: Final = 0x04


@dataclass(frozen=True)
class Container:
    """One image file, taken apart."""

    format: str
    """`JPEG`, `PNG`, `WEBP` or `GIF`."""

    pixels: bytes
    """The file with nothing but what a decoder needs."""

    public: bytes
    """The file without metadata, except for the orientation; the same bytes where there was none to remove."""

    orientation: int = 1
    """EXIF orientation, 1 to 8; 1 where it is absent or unreadable."""

    frames: int = 1
    """Frames of an animation; only the first is ever judged."""

    canvas: tuple[int, int] | None = None
    """Width and height in the header, where a decoder would allocate them before they can be checked."""


def take_apart(data: bytes) -> Container | None:
    """Return the parts of an image file, or None when it is none of the four formats.

    A file that contradicts itself ends where it does so, and the decoder will refuse it.
    """
    if data.startswith(_JPEG):
        return _take_apart_jpeg(data)
    if data.startswith(_PNG):
        return _take_apart_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _take_apart_webp(data)
    if data.startswith(_GIF):
        return Container("GIF", data, data, frames=max(1, _count_gif_frames(data)))
    return None


def _read_orientation(tiff: bytes) -> int:
    """Return the orientation in a block of EXIF, 1 when there is none that makes sense."""
    tiff = tiff.removeprefix(b"Exif\x00\x00")
    order = _TIFF_HEADERS.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    (start,) = struct.unpack_from(order + "I", tiff, 4)
    if start + 2 > len(tiff):
        return 1
    (num_tags,) = struct.unpack_from(order + "H", tiff, start)
    for index in range(min(num_tags, _MAX_TAGS)):
        at = start + 2 + 12 * index
        if at + 12 > len(tiff):
            break
        tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, at)
        if tag == _ORIENTATION_TAG and kind == 3:
            return int(value) if 1 <= value <= 8 else 1
    return 1


def _write_orientation(orientation: int) -> bytes:
    """Return the smallest block of EXIF that holds an orientation."""
    return struct.pack("<4sIHHHIHHI", b"II*\x00", 8, 1, _ORIENTATION_TAG, 3, 1, orientation, 0, 0)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, bytes) of each segment; scans keep their entropy-coded data, and nothing follows the end."""
    at = 2
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _BARE_MARKERS:
            return
        if marker == 0xD9:
            yield marker, data[at : at + 2]
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            following = _JPEG_MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield marker, data[at:end]
        at = end


def _take_apart_jpeg(data: bytes) -> Container:
    pixels, public, orientation = [data[:2]], [data[:2]], 1
    for marker, segment in _jpeg_segments(data):
        body = segment[4:]
        if marker == 0xE1 and body.startswith(b"Exif\x00\x00"):
            orientation = _read_orientation(body)
        elif 0xE0 <= marker <= 0xEF or marker == 0xFE:
            is_header = marker in (0xE0, 0xEE)
            pixels += [segment] if is_header else []
            public += [segment] if is_header or body.startswith(b"ICC_PROFILE") else []
        else:
            pixels.append(segment)
            public.append(segment)
    if orientation != 1:
        exif = b"Exif\x00\x00" + _write_orientation(orientation)
        public.insert(1, b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    return Container("JPEG", b"".join(pixels), b"".join(public), orientation)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, bytes) of each chunk up to the end chunk; the last one may be cut short."""
    at = len(_PNG)
    while at < len(data):
        name = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield name, data[at:end]
        if name == b"IEND":
            return
        at = end


def _take_apart_png(data: bytes) -> Container:
    chunks = list(_png_chunks(data))
    pixels, public, orientation, frames = [_PNG], [_PNG], 1, 1
    for name, chunk in chunks:  # the orientation may stand behind the pixels
        if name == b"eXIf":
            orientation = _read_orientation(chunk[8:-4])
        elif name == b"acTL":
            frames = max(1, int.from_bytes(chunk[8:12], "big"))
    lacks_orientation = orientation != 1
    for name, chunk in chunks:
        if name in _PNG_PIXELS:
            pixels.append(chunk)
        if name == b"IDAT" and lacks_orientation:
            public.append(_png_orientation(orientation))
            lacks_orientation = False
        if name not in _PNG_PRIVATE:
            public.append(chunk)
    return Container("PNG", b"".join(pixels), b"".join(public), orientation, frames)


def _png_orientation(orientation: int) -> bytes:
    body = b"eXIf" + _write_orientation(orientation)
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (name, bytes with padding) of each chunk inside the declared size of the file."""
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        following = at + 8 + size + size % 2
        yield data[at : at + 4], data[at:following]
        at = following


def _take_apart_webp(data: bytes) -> Container:
    chunks = list(_webp_chunks(data))
    exif = next((chunk[8:] for name, chunk in chunks if name == b"EXIF"), b"")
    orientation = _read_orientation(exif)
    frames = max(1, sum(name == b"ANMF" for name, _ in chunks))
    canvas = next((size for name, chunk in chunks if (size := _webp_canvas(name, chunk))), (0, 0))
    if not any(name in _WEBP_PRIVATE for name, _ in chunks):
        return Container("WEBP", data, data, orientation, frames, canvas)
    kept = [_padded(c) for name, c in chunks if name not in _WEBP_PRIVATE and _is_whole(c)]
    pixels = _join_webp([_with_flags(chunk, 0) for chunk in kept])
    if orientation == 1:
        return Container("WEBP", pixels, pixels, orientation, frames, canvas)
    block = _write_orientation(orientation)
    kept.append(b"EXIF" + struct.pack("<I", len(block)) + block)
    public = _join_webp([_with_flags(chunk, _WEBP_EXIF_FLAG) for chunk in kept])
    return Container("WEBP", pixels, public, orientation, frames, canvas)


def _is_whole(chunk: bytes) -> bool:
    """Return whether a WEBP chunk is all there: one cut short at the end would swallow what is written behind it."""
    return len(chunk) >= 8 + int.from_bytes(chunk[4:8], "little")


def _padded(chunk: bytes) -> bytes:
    return chunk + bytes(len(chunk) % 2)


def _with_flags(chunk: bytes, flags: int) -> bytes:
    """Return a WEBP chunk; in the extended header, the metadata flags are replaced."""
    if chunk[:4] != b"VP8X" or len(chunk) < 9:
        return chunk
    kept = chunk[8] & ~(_WEBP_EXIF_FLAG | _WEBP_XMP_FLAG)
    return chunk[:8] + bytes([kept | flags]) + chunk[9:]


def _join_webp(chunks: list[bytes]) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_canvas(name: bytes, chunk: bytes) -> tuple[int, int] | None:
    """Return the size that a WEBP header declares, or None where the chunk is no header."""
    if name == b"VP8X":
        return (
            int.from_bytes(chunk[12:15], "little") + 1,
            int.from_bytes(chunk[15:18], "little") + 1,
        )
    if name == b"VP8L":
        bits = int.from_bytes(chunk[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8 ":
        width, height = chunk[14:16], chunk[16:18]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def _count_gif_frames(data: bytes) -> int:
    """Return how many images a GIF holds, by walking its blocks without decoding them."""
    at, frames = 13 + _gif_table(data, 10), 0
    while at < len(data) and data[at] in (0x21, 0x2C):
        if data[at] == 0x2C:
            frames += 1
            at += 11 + _gif_table(data, at + 9)
        else:
            at += 2
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    return frames


def _gif_table(data: bytes, at: int) -> int:
    """Return the size in bytes of the colour table that the flags at `at` announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
