"""Images: every hostile file is refused by name, every honest one decodes the same way each time."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moderation.errors import InvalidListing
from moderation.image import (
    MAX_PIXELS,
    decode,
    decode_view,
    hamming,
    hash_view,
    pdq,
    strip,
    to_tensor,
)
from moderation.listing import MAX_IMAGE_BYTES

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def picture(width: int = 60, height: int = 40, seed: int = 0, detail: int = 7) -> Image.Image:
    """Return a smooth random picture, the same for the same arguments."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (detail, detail, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def oriented(kind: str, orientation: int, **extra: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "A Camera"
    return encoded(picture(), kind, exif=exif, quality=95, **extra)


def painted() -> Image.Image:
    """Return a picture of one of the two colours in its palette."""
    image = Image.new("P", (9, 9), 1)
    image.putpalette([0, 0, 0, 200, 100, 0])
    image.putpixel((0, 0), 0)
    return image


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    rows = b"IDAT" + zlib.compress(bytes(1_000))
    data = struct.pack(">I", len(rows) - 4) + rows + struct.pack(">I", zlib.crc32(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk + data


def animation(kind: str) -> bytes:
    frames = [picture(seed=seed) for seed in range(3)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=40)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"hello, world", "known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "known format"),
        (b"%PDF-1.7" + bytes(40), "known format"),
        (encoded(picture(), "TIFF"), "known format"),
        (encoded(picture(), "BMP"), "known format"),
        (b"\xff\xd8\xff" + bytes(MAX_IMAGE_BYTES), "at most"),
        (b"\xff\xd8\xff", "truncated or corrupt"),
        (b"\x89PNG\r\n\x1a\n", "truncated or corrupt"),
        (b"GIF89a", "truncated or corrupt"),
        (b"RIFF\x10\x00\x00\x00WEBPVP8 ", "pixels"),
        (png_header(30_000, 30_000), "pixels"),
        (png_header(8_000, 8_000), "pixels"),
        (png_header(0, 10), "truncated or corrupt"),
        (b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(20), "truncated or corrupt"),
    ],
)
def test_decode_refuses_a_hostile_file(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidListing, match=reason) as caught:
        decode(data, field="images[2]")
    assert caught.value.field == "images[2]"


def test_decode_refuses_a_giant_webp_before_decoding() -> None:
    data = bytearray(encoded(picture(), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = struct.pack("<I", 0x3FFF | 0x3FFF << 14)
    with pytest.raises(InvalidListing, match=r"16384 x 16384 pixels"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_decode_refuses_a_file_when_cut_anywhere(kind: str) -> None:
    whole = encoded(picture(), kind)
    for end in range(1, len(whole) - 20, max(1, len(whole) // 40)):
        with pytest.raises(InvalidListing):
            decode(whole[:end])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(kind=st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]), seed=st.integers(0, 10_000))
def test_decode_answers_or_refuses_when_bytes_are_flipped(kind: str, seed: int) -> None:
    rng = random.Random(seed)
    data = bytearray(oriented(kind, 6) if kind != "GIF" else encoded(picture(), kind))
    for _ in range(rng.randint(1, 12)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    for answer in (decode, lambda d: decode(strip(d))):
        try:
            image = answer(bytes(data))
        except InvalidListing:
            continue
        assert image.mode == "RGB"
        assert 0 < image.width * image.height <= MAX_PIXELS


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    head=st.sampled_from([b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFFxxxxWEBP"]),
    tail=st.binary(max_size=300),
)
def test_decode_refuses_noise_behind_a_good_head(head: bytes, tail: bytes) -> None:
    with pytest.raises(InvalidListing):
        decode(head + tail)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_turns_an_image_upright(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    with Image.open(io.BytesIO(data)) as opened:
        from PIL import ImageOps

        expected = ImageOps.exif_transpose(opened).convert("RGB")
    image = decode(data)
    assert np.array_equal(np.asarray(image), np.asarray(expected))
    assert image.info == {"frames": 1}
    assert not image.getexif()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_strip_removes_metadata_and_keeps_pixels(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    stripped = strip(data)
    assert b"A Camera" in data
    assert b"A Camera" not in stripped
    assert np.array_equal(np.asarray(decode(stripped)), np.asarray(decode(data)))
    with Image.open(io.BytesIO(stripped)) as opened:
        assert dict(opened.getexif()) == ({0x0112: orientation} if orientation > 1 else {})
    assert strip(stripped) == stripped


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_strip_returns_the_same_bytes_without_metadata(kind: str) -> None:
    data = encoded(picture(), kind)
    assert strip(data) == data


def test_strip_removes_comments_and_what_follows_the_end() -> None:
    jpeg = encoded(picture(), "JPEG", comment=b"call 555") + b"PK\x03\x04 a zip"
    assert b"555" in jpeg
    assert strip(jpeg) == encoded(picture(), "JPEG")
    png = encoded(picture(), "PNG")
    assert strip(png + b"<script>") == png


def test_strip_keeps_every_frame_of_an_animation() -> None:
    data = animation("PNG")
    assert strip(data) == data


def test_strip_drops_the_second_picture_of_a_multi_picture_file() -> None:
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(seed=1)])
    image = decode(data)
    assert np.array_equal(np.asarray(image), np.asarray(decode(encoded(picture(), "JPEG"))))
    assert len(strip(data)) < 0.7 * len(data)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_decode_takes_the_first_frame_of_an_animation(kind: str) -> None:
    image = decode(animation(kind))
    assert image.info["frames"] == 3
    difference = np.abs(np.asarray(image, np.int64) - np.asarray(picture(), np.int64))
    assert difference.mean() < 16


def test_decode_counts_no_frames_when_a_gif_breaks_off() -> None:
    whole = animation("GIF")
    assert decode(whole[: len(whole) * 2 // 3]).info["frames"] in (2, 3)


@pytest.mark.parametrize(
    ("data", "pixel"),
    [
        (encoded(Image.new("CMYK", (9, 9), (0, 0, 0, 0)), "JPEG"), (255, 255, 255)),
        (encoded(Image.new("L", (9, 9), 77), "PNG"), (77, 77, 77)),
        (encoded(Image.new("1", (9, 9), 1), "PNG"), (255, 255, 255)),
        (encoded(Image.fromarray(np.full((9, 9), 0x4D00, np.uint16)), "PNG"), (77, 77, 77)),
        (encoded(Image.new("RGBA", (9, 9), (10, 20, 30, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 128)), "PNG"), (127, 127, 127)),
        (encoded(Image.new("LA", (9, 9), (0, 0)), "PNG"), (255, 255, 255)),
        (encoded(Image.new("P", (9, 9), 0), "PNG", transparency=0), (255, 255, 255)),
        (encoded(painted(), "PNG", transparency=b"\xff\x00"), (255, 255, 255)),
        (encoded(painted(), "PNG", transparency=b"\x00\xff"), (200, 100, 0)),
        (encoded(Image.new("RGB", (9, 9), (9, 8, 7)), "PNG", transparency=(9, 8, 7)), (255,) * 3),
        (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 0)), "WEBP"), (255, 255, 255)),
        (encoded(Image.new("P", (9, 9), 0), "GIF", transparency=0), (255, 255, 255)),
    ],
)
def test_decode_answers_rgb_whatever_the_mode(data: bytes, pixel: tuple[int, ...]) -> None:
    image = decode(data)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image, np.int64)[4, 4] - pixel).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_image_is_scored_when_its_shape_is_extreme(size: tuple[int, int]) -> None:
    image = decode(encoded(Image.new("RGB", size, (9, 9, 9)), "PNG"))
    assert image.size == size
    tensor_CHW = to_tensor(image, 32, MEAN, STD)
    assert tensor_CHW.shape == (3, 32, 32)
    assert np.isfinite(tensor_CHW).all()
    words, quality = pdq(image)
    assert words.shape == (4,)
    assert quality == 0


def test_decode_reduces_a_large_photo_always_alike() -> None:
    data = encoded(picture(3_200, 1_700), "JPEG")
    first, second = decode(data), decode(data)
    assert first.size == (1_600, 850)
    assert np.array_equal(np.asarray(first), np.asarray(second))


def test_decode_ignores_exif_when_it_is_corrupt() -> None:
    whole = oriented("JPEG", 6)
    at = whole.index(b"II*\x00") if b"II*\x00" in whole else whole.index(b"MM\x00*")
    for junk in (b"\xff" * 8, b"II*\x00\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00"):
        image = decode(whole[:at] + junk + whole[at + len(junk) :])
        assert image.size in ((60, 40), (40, 60))


def test_pdq_survives_what_a_seller_does_lightly() -> None:
    image = picture(400, 300, detail=24)
    words, quality = pdq(image)
    assert words.dtype == np.uint64
    assert quality >= 50
    again, _ = pdq(decode(encoded(image.resize((200, 150)), "JPEG", quality=60)))
    other, _ = pdq(picture(400, 300, seed=9, detail=24))
    assert hamming(words, again) <= 31 < hamming(words, other)


@pytest.mark.parametrize("size", [(1_024, 768), (900, 1_600), (2_000, 1_500), (500, 400)])
def test_view_of_a_file_is_that_of_its_pixels_for_all_that_pdq_tells(size: tuple[int, int]) -> None:
    image = picture(*size, detail=48)
    for data in (encoded(image, "JPEG", quality=88), encoded(image, "WEBP", quality=80)):
        whole, view = decode(data), decode_view(data)
        assert view.size == hash_view(whole).size
        assert hamming(pdq(view)[0], pdq(whole)[0]) <= 8
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(turned, "JPEG", quality=88, exif=exif)
    assert decode_view(data).size == hash_view(image).size
    assert hamming(pdq(decode_view(data))[0], pdq(image)[0]) <= 12


def test_view_is_refused_where_a_large_photo_is_cut() -> None:
    whole = encoded(picture(2_000, 1_500, detail=48), "JPEG")
    for share in (0.2, 0.6, 0.95):
        with pytest.raises(InvalidListing, match="truncated or corrupt"):
            decode_view(whole[: int(len(whole) * share)], field="images[0]")


def test_hamming_compares_many_hashes_at_once() -> None:
    hashes_N4 = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [2**64 - 1] * 4], np.uint64)
    assert hamming(hashes_N4[:, None], hashes_N4[None]).tolist() == [
        [0, 1, 256],
        [1, 0, 255],
        [256, 255, 0],
    ]


def test_to_tensor_normalises_each_channel() -> None:
    tensor_CHW = to_tensor(Image.new("RGB", (50, 70), (255, 0, 128)), 8, MEAN, STD, crop=0.875)
    assert tensor_CHW.dtype == np.float32
    assert tensor_CHW.flags["C_CONTIGUOUS"]
    expected = (np.array([1, 0, 128 / 255]) - MEAN) / STD
    assert np.allclose(tensor_CHW, expected[:, None, None], atol=1e-5)


def test_to_tensor_equals_resize_and_centre_crop() -> None:
    image = picture(300, 200)
    width, height = 48, 32
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    cropped = resized.crop((8, 0, 40, 32))
    expected = (np.asarray(cropped, np.float32) / 255 - MEAN) / STD
    tensor_CHW = to_tensor(image, 32, MEAN, STD)
    assert np.abs(tensor_CHW - expected.transpose(2, 0, 1)).mean() < 0.02


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.5, float("nan")])
def test_to_tensor_refuses_a_senseless_crop(crop: float) -> None:
    with pytest.raises(ValueError, match="crop must be in"):
        to_tensor(picture(), 8, MEAN, STD, crop)


def _named(function: Callable[[bytes], Any]) -> str:
    return function.__name__


@pytest.mark.parametrize("function", [decode, strip], ids=_named)
def test_image_error_names_the_field_by_default(function: Callable[[bytes], Any]) -> None:
    with pytest.raises(InvalidListing, match=r"^image: is empty"):
        function(b"")


def test_strip_keeps_an_orientation_that_stands_behind_the_pixels() -> None:
    data = oriented("PNG", 6)
    at = data.index(b"eXIf") - 4
    exif = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
    rest, end = data.replace(exif, b"")[:-12], data[-12:]
    moved = rest + exif + end
    assert np.array_equal(np.asarray(decode(moved)), np.asarray(decode(data)))
    stripped = strip(moved)
    assert b"A Camera" not in stripped
    assert np.array_equal(np.asarray(decode(stripped)), np.asarray(decode(data)))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_decode_lays_a_large_image_on_white_as_a_small_one(mode: str) -> None:
    rng = np.random.default_rng(1)
    layers = Image.fromarray(rng.integers(0, 256, (1_500, 1_100, 4), np.uint8))
    large = layers.convert("RGB").quantize(16) if mode == "P" else layers.convert(mode)
    options = {"transparency": 3} if mode == "P" else {}
    data = encoded(large, "PNG", **options)
    with Image.open(io.BytesIO(data)) as opened:
        layer = opened.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    expected = Image.alpha_composite(white, layer).convert("RGB")
    assert np.array_equal(np.asarray(decode(data)), np.asarray(expected))


@pytest.mark.parametrize("size", [3, 4, 1_000])
def test_strip_keeps_the_orientation_of_a_webp_whose_last_chunk_is_cut_short(size: int) -> None:
    whole = oriented("WEBP", 6)
    data = whole + b"junk" + struct.pack("<I", size) + b"end"
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    stripped = strip(data)
    assert b"A Camera" not in stripped
    assert np.array_equal(np.asarray(decode(stripped)), np.asarray(decode(whole)))
