"""Parts of photos are found again in them: cropped, framed, mirrored, written anew; other photos are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from moderation.alignment import Outline, colours, likeness, trim
from tests.golden_world import jpeg, photo

SEEDS = range(12)


def _again(image: Image.Image) -> Outline:
    return Outline.of(Image.open(io.BytesIO(jpeg(image, 75))))


def _crop(image: Image.Image, seed: int) -> Image.Image:
    left, top = np.random.default_rng(seed).integers(0, image.width // 5, 2).tolist()
    return image.crop((left, top, left + image.width * 4 // 5, top + image.height * 4 // 5))


ALTERED: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "crop": _crop,
    "frame": lambda image, seed: ImageOps.expand(image, 4 + seed, ("white", "black")[seed % 2]),
    "mirror": lambda image, _: ImageOps.mirror(image),
    "small": lambda image, _: image.resize((image.width // 2, image.height // 2)),
}


@pytest.mark.parametrize("name", ALTERED)
def test_altered_photo_is_a_copy_whichever_is_first(name: str) -> None:
    for seed in SEEDS:
        original = Outline.of(photo(seed))
        altered = _again(ALTERED[name](photo(seed), seed))
        assert likeness(original, altered).is_copy(), seed
        assert likeness(altered, original) == likeness(original, altered)


def test_other_photos_are_no_copies() -> None:
    outlines = [Outline.of(photo(seed)) for seed in SEEDS]
    pairs = [(a, b) for a in SEEDS for b in SEEDS if a < b]
    assert not any(likeness(outlines[a], outlines[b]).is_copy() for a, b in pairs)


def test_same_shapes_in_other_colours_are_no_copy() -> None:
    twin = ImageEnhance.Color(photo(3)).enhance(0).point(lambda value: value * 0.6 + 100)
    found = likeness(Outline.of(photo(3)), Outline.of(twin))
    assert found.correlation > 0.9
    assert not found.is_copy()


def test_margin_asks_for_more() -> None:
    found = likeness(Outline.of(photo(1)), _again(_crop(photo(1), 1)))
    assert found.is_copy()
    assert not found.is_copy(margin=0.3)


def test_flat_pictures_are_not_trimmed_away_nor_copies() -> None:
    grey = Image.new("RGB", (90, 60), (120, 120, 120))
    assert trim(grey) is grey
    assert not likeness(Outline.of(grey), Outline.of(photo(0))).is_copy()


def test_trim_removes_a_border_and_nothing_else() -> None:
    image = photo(5)
    framed = ImageOps.expand(image, (10, 4, 0, 7), "white")
    assert abs(trim(framed).width - image.width) <= 1
    assert abs(trim(framed).height - image.height) <= 1
    np.testing.assert_allclose(colours(trim(framed)), colours(trim(image)), atol=3)
