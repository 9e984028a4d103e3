"""Attacks on words and photo together: what one of them says moves to the other, or drowns in honest words.

A person still sees all of it. Only at severity 2, which no gate judges, are a listing's own words gone: then the photo
alone violates, where it does.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from moderation.attacks.image import reduced
from moderation.attacks.lettering import font, is_drawable
from moderation.attacks.registry import GATE, STRONG, Subject, attack
from moderation.listing import MAX_DESCRIPTION_CHARS

_MAX_WORDS: Final = 12
_CARD_SIDE: Final = 320
_MIN_WIDTH: Final = 160
_LINES_PER_WIDTH: Final = 14
"""Heights of a line of text in the width of a photo, at severity 1."""

_MOST_OF_HEIGHT: Final = 0.6
_MIN_SIZE: Final = 9
_INKS: Final = (((255, 255, 255), (15, 15, 15)), ((25, 25, 30), (240, 240, 240)))


@attack("words_into_image", family="text")
def words_into_image(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    """Return the listing with its telling words, or its title where it has none, on a strip along its first photo.

    The words are gone from the text. A listing without a photo gets a card with the words. Words that cannot be drawn
    (Chinese, Arabic, ...) stay where they are.
    """
    pattern = _pattern([word for word in subject.words if is_drawable(word)])
    texts = (subject.title, subject.description)
    found = list(dict.fromkeys(match for text in texts for match in pattern.findall(text)))
    moved = found[:_MAX_WORDS] or [subject.title.strip()]
    line = " ".join(moved)
    if not line or not is_drawable(line):
        return None
    gone = _pattern(moved)
    title, description = (_without(gone, text) for text in texts) if found else ("", texts[1])
    ground, ink = _INKS[int(rng.integers(2))]
    strip = _Strip(line, _LINES_PER_WIDTH * (0.5 + 0.5 * severity), ground, ink)
    if subject.images:
        first = strip.beside(reduced(subject.images[0]), on_top=bool(rng.random() < 0.5))
        images = (first, *subject.images[1:])
    else:
        images = (strip.card(),)
    return replace(subject, title=title, description=description, images=images)


@attack("neighbour_text", family="joint")
def neighbour_text(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    """Return the listing's photos under an honest neighbour's words; its own words come last in the description.

    So that a violation that lies in the words stays one. Below severity 1 its own title stays on top; at severity 2 its
    own words are gone.
    """
    neighbour = subject.neighbour
    if not subject.images or neighbour is None:
        return None
    if not (neighbour.title + neighbour.description).strip():
        return None
    if severity >= STRONG:
        return replace(subject, title=neighbour.title, description=neighbour.description)
    is_renamed = severity >= GATE
    own = [subject.title, subject.description] if is_renamed else [subject.description]
    last = "\n".join(filter(None, own))
    room = MAX_DESCRIPTION_CHARS - len(last) - 1
    if room < 0:
        return None
    honest = (neighbour.description or neighbour.title)[:room]
    return replace(
        subject,
        title=neighbour.title if is_renamed else subject.title,
        description="\n".join(filter(None, (honest, last))),
    )


@dataclass(frozen=True)
class _Strip:
    """A line of words, wrapped, on a ground of one colour."""

    line: str
    lines_per_width: float
    ground: tuple[int, int, int]
    ink: tuple[int, int, int]

    def beside(self, image: Image.Image, *, on_top: bool) -> Image.Image:
        """Return the image with the words above or below it, both unharmed."""
        width = max(image.width, _MIN_WIDTH)
        words = self._drawn(width, max(image.height, width / 2) * _MOST_OF_HEIGHT)
        whole = Image.new("RGB", (width, image.height + words.height), self.ground)
        whole.paste(image, ((width - image.width) // 2, words.height if on_top else 0))
        whole.paste(words, (0, 0 if on_top else image.height))
        return whole

    def card(self) -> Image.Image:
        """Return a picture of the words alone."""
        return self.beside(
            Image.new("RGB", (_CARD_SIDE, _CARD_SIDE // 4), self.ground), on_top=False
        )

    def _drawn(self, width: int, max_height: float) -> Image.Image:
        size = round(width / self.lines_per_width)
        letters, lines = font(size), _wrapped(self.line, font(size), width * 0.94)
        while size > _MIN_SIZE and size * 1.3 * len(lines) > max_height:
            size = max(_MIN_SIZE, int(size * 0.85))
            letters, lines = font(size), _wrapped(self.line, font(size), width * 0.94)
        step = math.ceil(letters.size * 1.3)
        drawn = Image.new("RGB", (width, step * (len(lines) + 1)), self.ground)
        draw = ImageDraw.Draw(drawn)
        for number, line in enumerate(lines):
            draw.text((width * 0.03, step * (number + 0.4)), line, self.ink, letters)
        return drawn


def _wrapped(text: str, letters: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Return a text in lines that fit; a word that is too long for one is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and letters.getlength(longer) > width:
            lines, longer = [*lines, line], word
        while len(longer) > 1 and letters.getlength(longer) > width:
            kept = max(1, int(len(longer) * width / letters.getlength(longer)))
            lines, longer = [*lines, longer[:kept]], longer[kept:]
        line = longer
    return [*lines, line]


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Return what finds any of some words, each whole and in any case; the longest first."""
    ordered = sorted(words, key=len, reverse=True)
    any_of_them = "|".join(r"\s+".join(map(re.escape, word.split())) for word in ordered) or "(?!)"
    return re.compile(rf"(?<!\w)(?:{any_of_them})(?!\w)", re.IGNORECASE)


def _without(gone: re.Pattern[str], text: str) -> str:
    return re.sub(r"[ \t]{2,}", " ", gone.sub("", text)).strip()
