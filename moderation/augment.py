"""Training views of a listing: small changes that a seller might make and that leave its meaning alone.

A view depends on nothing but the content's seed and the view's number, so that cached embeddings of views stay valid.
"""

import io
from collections.abc import Callable
from typing import Final

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from moderation.confusables import BACK
from moderation.listing import MAX_TITLE_CHARS

AUGMENT_VERSION: Final = 1
"""Raised whenever a view of the same seed changes; cached embeddings of older views are then computed again."""

_MAX_SIDE: Final = 384
"""Shorter side that a changed view keeps at most: more than a tower sees, little enough to be cheap."""

_MAX_ANGLE: Final = 8.0
_MIN_CROP: Final = 0.82
_LEET: Final = dict(zip("oieast", "013457", strict=True))
_LOOK_ALIKE: Final = BACK["cyrillic"]
_MIN_DISGUISED: Final = 4


def image_view(image: Image.Image, view: int, seed: int) -> Image.Image:
    """Return one view of an image; view 0 is the image itself.

    Args:
        image: RGB.
        view: number of the view, from 0.
        seed: taken from the content, so that equal images have equal views.
    """
    if view == 0:
        return image
    rng = np.random.default_rng((AUGMENT_VERSION, seed, view))
    changed = _crop(_reduce(image), rng)
    if rng.random() < 0.5:
        changed = changed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        angle = float(rng.uniform(-_MAX_ANGLE, _MAX_ANGLE))
        changed = changed.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_border(changed))
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        changed = enhance(changed).enhance(float(rng.uniform(0.75, 1.25)))
    if rng.random() < 0.25:
        changed = changed.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.2))))
    if rng.random() < 0.5:
        changed = _recompress(changed, int(rng.integers(35, 90)))
    return changed


def text_view(title: str, description: str, view: int, seed: int) -> tuple[str, str]:
    """Return one view of a listing's text; view 0 is the text itself.

    Words are misspelt, disguised or dropped, and the description may be missing; a text never becomes empty.
    """
    if view == 0 or not (title or description):
        return title, description
    rng = np.random.default_rng((AUGMENT_VERSION, seed, view))
    if title and description and rng.random() < 0.25:
        description = ""
    title = _change_words(title, rng, drop=0.0)
    description = _change_words(description, rng, drop=0.1)
    if rng.random() < 0.15:
        title = title.upper()
    return title[:MAX_TITLE_CHARS], description


def _reduce(image: Image.Image) -> Image.Image:
    scale = _MAX_SIDE / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return a part of the image that holds most of each side."""
    width, height = image.size
    share = rng.uniform(_MIN_CROP, 1.0, 2)
    new_width, new_height = max(1, int(width * share[0])), max(1, int(height * share[1]))
    left = int(rng.integers(0, width - new_width + 1))
    top = int(rng.integers(0, height - new_height + 1))
    return image.crop((left, top, left + new_width, top + new_height))


def _border(image: Image.Image) -> tuple[int, int, int]:
    """Return the mean colour of the corners, so that a turned image has no black wedges."""
    right, bottom = image.width - 1, image.height - 1
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    pixels = np.array([image.getpixel(corner) for corner in corners], np.float64)
    red, green, blue = (int(value) for value in pixels.mean(axis=0))
    return red, green, blue


def _recompress(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as opened:
        return opened.convert("RGB")


def _change_words(text: str, rng: np.random.Generator, *, drop: float) -> str:
    """Return a text with a few of its words misspelt or disguised, and a share of them dropped."""
    words = text.split()
    if not words:
        return text
    if drop and len(words) > 3:
        kept = rng.random(len(words)) >= drop
        words = [word for word, is_kept in zip(words, kept, strict=True) if is_kept] or words[:1]
    num_changed = int(rng.integers(0, 2 + len(words) // 6))
    for index in rng.integers(0, len(words), num_changed):
        change = _CHANGES[int(rng.integers(len(_CHANGES)))]
        words[index] = change(words[index], rng)
    return " ".join(words)


def _swap_letters(word: str, rng: np.random.Generator) -> str:
    if len(word) < _MIN_DISGUISED or any(letter.isdigit() for letter in word):
        return word
    at = int(rng.integers(1, len(word) - 2))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _drop_letter(word: str, rng: np.random.Generator) -> str:
    if len(word) < _MIN_DISGUISED or any(letter.isdigit() for letter in word):
        return word
    at = int(rng.integers(1, len(word) - 1))
    return word[:at] + word[at + 1 :]


def _replace_one(word: str, table: dict[str, str], rng: np.random.Generator) -> str:
    places = [at for at, letter in enumerate(word[1:-1], 1) if letter in table]
    if len(word) < _MIN_DISGUISED or not places:
        return word
    at = places[int(rng.integers(len(places)))]
    return word[:at] + table[word[at]] + word[at + 1 :]


def _write_leet(word: str, rng: np.random.Generator) -> str:
    return _replace_one(word, _LEET, rng)


def _write_look_alike(word: str, rng: np.random.Generator) -> str:
    return _replace_one(word, _LOOK_ALIKE, rng)


def _spell_out(word: str, rng: np.random.Generator) -> str:
    if not 2 < len(word) < 10 or not word.isalpha():
        return word
    return ("." if rng.random() < 0.5 else "-").join(word)


_CHANGES: Final[tuple[Callable[[str, np.random.Generator], str], ...]] = (
    _swap_letters,
    _drop_letter,
    _write_leet,
    _write_look_alike,
    _spell_out,
)
