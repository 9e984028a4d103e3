"""Training views: seeded by content, cheap, and never another meaning."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moderation.augment import image_view, text_view
from moderation.listing import MAX_TITLE_CHARS
from moderation.text import normalise


def picture(width: int = 120, height: int = 90) -> Image.Image:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_image_view_is_the_image_when_view_is_0() -> None:
    image = picture()
    assert image_view(image, 0, seed=5) is image


def test_image_view_is_the_same_for_the_same_seed() -> None:
    first, second = (np.asarray(image_view(picture(), 2, seed=5)) for _ in range(2))
    assert np.array_equal(first, second)


def test_image_view_differs_by_view_and_by_seed() -> None:
    views = {image_view(picture(), view, seed).tobytes() for view, seed in [(1, 5), (2, 5), (1, 6)]}
    assert len(views) == 3


def test_image_view_stays_close_to_the_image() -> None:
    image = picture()
    for seed in range(30):
        view = image_view(image, 1, seed)
        assert view.mode == "RGB"
        assert view.width * view.height >= 0.6 * image.width * image.height
        tone = np.asarray(view).mean((0, 1)) - np.asarray(image).mean((0, 1))
        assert np.abs(tone).max() < 60


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 2)])
def test_image_view_exists_when_the_shape_is_extreme(size: tuple[int, int]) -> None:
    for seed in range(10):
        assert image_view(Image.new("RGB", size), 1, seed).width >= 1


def test_image_view_is_reduced_when_the_image_is_large() -> None:
    view = image_view(picture(2_000, 1_500), 1, seed=1)
    assert min(view.size) <= 384


def test_text_view_is_the_text_when_view_is_0() -> None:
    assert text_view("A Title", "Its text", 0, seed=1) == ("A Title", "Its text")
    assert text_view("", "", 3, seed=1) == ("", "")


TITLE = "Blue mountain bicycle 26 inch"
DESCRIPTION = "Hardly used bicycle with lights, bought in 2023, pick up in the evening please"


def test_text_view_is_the_same_for_the_same_seed() -> None:
    assert text_view(TITLE, DESCRIPTION, 4, 9) == text_view(TITLE, DESCRIPTION, 4, 9)


def test_text_view_differs_across_views() -> None:
    views = {text_view(TITLE, DESCRIPTION, view, 9) for view in range(8)}
    assert len(views) >= 6


def test_text_view_keeps_most_words_as_readers_see_them() -> None:
    words = set(normalise(TITLE).folded.split())
    kept = [len(words & set(_title_words(seed))) / len(words) for seed in range(100)]
    assert np.mean(kept) > 0.75
    assert min(kept) >= 0.4


def _title_words(seed: int) -> list[str]:
    return normalise(text_view(TITLE, DESCRIPTION, 1, seed)[0]).folded.split()


def test_text_view_leaves_numbers_alone() -> None:
    for seed in range(60):
        assert "26" in text_view(TITLE, "", 1, seed)[0].split()


def test_text_view_sometimes_has_the_title_alone() -> None:
    bare = [text_view(TITLE, DESCRIPTION, 1, seed)[1] == "" for seed in range(200)]
    assert 0.1 < np.mean(bare) < 0.4


@settings(max_examples=200, deadline=None, derandomize=True)
@given(title=st.text(max_size=300), description=st.text(max_size=200), seed=st.integers(0, 2**63))
def test_text_view_is_never_empty_and_fits(title: str, description: str, seed: int) -> None:
    new_title, new_description = text_view(title, description, 1, seed)
    assert bool(new_title) == bool(title)
    assert not (title.strip() or description.strip()) or new_title or new_description
    assert len(new_title) <= MAX_TITLE_CHARS


def test_views_cost_little() -> None:
    image = picture(200, 200)
    begin = time.process_time()
    for seed in range(50):
        image_view(image, 1, seed)
        text_view(TITLE, DESCRIPTION, 1, seed)
    # Ten times the usual cost; an encoder needs longer for the same image.
    assert (time.process_time() - begin) / 50 < 0.03
