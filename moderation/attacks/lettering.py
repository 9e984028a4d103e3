"""Words drawn into pictures, the same on every machine; what the font cannot draw is told, never drawn as boxes."""

import unicodedata
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import ImageFont

from moderation.errors import PermanentError

_SIZES: Final = (8, 160)
_MISSING: Final = "\uffff"
_RIGHT_TO_LEFT: Final = ("R", "AL", "AN")


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font of Latin, Greek and Cyrillic letters.

    Args:
        size: in pixels, kept between 8 and 160.

    Raises:
        PermanentError: if the package that brings the font is not installed.
    """
    found = find_spec("matplotlib")  # its DejaVu Sans; the package itself is not imported
    if found is None or found.origin is None:
        raise PermanentError("attacks draw with matplotlib's font: install tidegate[train]")
    path = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    size = min(max(size, _SIZES[0]), _SIZES[1])
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def fitting_font(word: str, width: float) -> ImageFont.FreeTypeFont:
    """Return the font at the size at which a word is about `width` pixels wide."""
    return font(round(100 * width / max(1.0, font(100).getlength(word))))


@cache
def _is_drawable(character: str) -> bool:
    if character.isspace():
        return True
    if unicodedata.bidirectional(character) in _RIGHT_TO_LEFT or unicodedata.combining(character):
        return False
    drawn, missing = (bytes(font(20).getmask(one)) for one in (character, _MISSING))
    return drawn != missing


def is_drawable(text: str) -> bool:
    """Return whether every character of a text can be drawn, one after the other from left to right."""
    return all(map(_is_drawable, text))
