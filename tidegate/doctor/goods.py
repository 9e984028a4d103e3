"""What a listing of the doctor's world shows: a photo with a patch, and words of three languages.

A violation of a policy shows the policy's two colours, or says its telling words, or both. Honest look-alikes say the
same words with an explanation; honest photos have pale ones; many honest sellers write in tricks.
"""

import colorsys
import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from marketplace.evasion import Evasion, hide

LANGUAGES: Final = ("en", "de", "es")
REGIONS: Final = ("north", "south", "west")
CATEGORIES: Final = ("home", "toys", "tech")

_SIDE: Final = 64
_FRAMED: Final = 0.45
_PALE: Final = 0.3
"""Most saturated colour of an honest patch; a policy's are stronger."""

_FRAME: Final = 0.5
"""Most saturated colour of a frame."""

_CAPTIONED: Final = 0.3
_LETTERS: Final = tuple("abcdefghijklmnopqrstuvwxyz ")
_NUM_BENIGN: Final = 60
_NUM_TELLING: Final = 5
_SYLLABLES: Final = {
    "en": ("lamp", "er", "ing", "bo", "ther", "wal", "nut", "ship", "ly", "gar", "den", "mo"),
    "de": ("schu", "lich", "keit", "un", "ber", "zei", "auf", "stein", "hau", "gen", "mut", "wer"),
    "es": ("ción", "lla", "ro", "ca", "mi", "do", "ven", "ta", "po", "que", "ba", "niño"),
}
_HINTING: Final = ("pry", "olk", "syn", "umf", "ayx")
_ONSETS: Final = ("kr", "v", "z", "p", "gr", "dr", "f", "j", "w", "bl", "sn", "tr", "sk", "h", "cl")
_RHYMES: Final = ("ax", "ox", "ul", "im", "ek", "ob")


Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Words:
    """The vocabulary of one language."""

    benign: tuple[str, ...]
    telling: tuple[tuple[str, ...], ...]
    """Of each policy."""

    explaining: tuple[str, ...]
    """Said before and after a telling word by whoever sells a harmless thing of that name."""

    hints: tuple[str, ...]
    """Of each policy: as often said by violators as by others."""


def vocabulary(num_policies: int) -> dict[str, Words]:
    """Return the words of each language; no two words are the same."""
    rng = np.random.default_rng(3)
    taken: set[str] = set()

    def draw(syllables: tuple[str, ...], length: int) -> str:
        while True:
            word = "".join(str(s) for s in rng.choice(syllables, length))
            if word not in taken:
                taken.add(word)
                return word

    found = {}
    for language in LANGUAGES:
        own = _SYLLABLES[language]
        found[language] = Words(
            benign=tuple(draw(own, 2 + number % 2) for number in range(_NUM_BENIGN)),
            telling=tuple(
                tuple(draw(_telling(column, num_policies), 3) for _ in range(_NUM_TELLING))
                for column in range(num_policies)
            ),
            explaining=tuple(draw(own, 3) for _ in range(2)),
            hints=tuple(draw(_HINTING, 2) for _ in range(num_policies)),
        )
    return found


def _telling(policy: int, num_policies: int) -> tuple[str, ...]:
    """Return syllables of a policy's telling words: policies sound different."""
    onsets = _ONSETS[policy % len(_ONSETS) :: num_policies]
    return tuple(onset + rhyme for onset in onsets for rhyme in _RHYMES)


def photo(rng: np.random.Generator, policy: int | None, num_policies: int) -> bytes:
    """Return a small JPEG: a grey texture of its own with a plain patch, or with the policy's flag of two colours."""
    spread = int(rng.integers(20, 90))
    side = int(rng.integers(3, 10))
    grey = int(rng.integers(20, 236)) + rng.integers(-spread, spread + 1, (side, side))
    texture = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    image = texture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB")
    left, top = (int(place) for place in rng.integers(2, 12, 2))
    width, height = (int(size) for size in rng.integers(42, 54, 2))
    draw, box = ImageDraw.Draw(image), (left, top, left + width, top + height)
    _draw_clutter(rng, draw, 4)
    if policy is None:
        colour = _colour(rng, float(rng.random()), float(rng.uniform(0, _PALE)))
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)(box, fill=colour)
    else:
        hue = (policy + float(rng.uniform(-0.06, 0.06))) / num_policies
        first, second = (_colour(rng, h, float(rng.uniform(0.8, 1))) for h in (hue, hue + 0.5))
        _draw_flag(draw, box, (first, second))
    _draw_clutter(rng, draw, 2)
    if rng.random() < _FRAMED:
        image = _framed(rng, image)
    if rng.random() < _CAPTIONED:
        image = _captioned(rng, image)
    pixels = np.clip(np.asarray(image) + rng.normal(0, 5, (_SIDE, _SIDE, 3)), 0, 255)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


def _draw_clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, num: int) -> None:
    """Draw grey things of any shape: no two photos look alike to a search for copies."""
    for _ in range(num):
        grey, size = int(rng.integers(256)), int(rng.integers(3, 16))
        x, y, further_x, further_y = (int(place) for place in rng.integers(-8, _SIDE + 8, 4))
        if rng.random() < 0.5:
            draw.line((x, y, further_x, further_y), fill=(grey, grey, grey), width=size // 3)
        else:
            draw.ellipse((x - size, y - size, x + size, y + size), fill=(grey, grey, grey))


def _framed(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Return the photo smaller, on a ground of one colour."""
    ground = _colour(rng, float(rng.random()), float(rng.uniform(0, _FRAME)))
    canvas, side = Image.new("RGB", image.size, ground), int(rng.integers(38, 60))
    place = tuple(int(offset) for offset in rng.integers(0, _SIDE - side + 1, 2))
    canvas.paste(image.resize((side, side), Image.Resampling.BICUBIC), (place[0], place[1]))
    return canvas


def _captioned(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    """Return the photo with letters that say nothing: straight on it, or on a strip above or below."""
    is_dark = rng.random() < 0.5
    ink, paper = ((255,) * 3, (15,) * 3) if is_dark else ((0,) * 3, (240,) * 3)
    lines = int(rng.integers(1, 4))
    top, height = int(rng.integers(0, _SIDE - 10)), 11 * lines
    if rng.random() < 0.3:
        canvas = Image.new("RGB", image.size, paper)
        above = rng.random() < 0.5
        smaller = image.resize((_SIDE, _SIDE - height), Image.Resampling.BICUBIC)
        canvas.paste(smaller, (0, height if above else 0))
        image, top = canvas, 0 if above else _SIDE - height
    draw = ImageDraw.Draw(image)
    for line in range(lines):
        said = "".join(str(letter) for letter in rng.choice(_LETTERS, 12))
        draw.text((2, top + 11 * line), said, fill=ink)
    return image


def _draw_flag(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colours: tuple[Colour, Colour]
) -> None:
    left, top, right, bottom = box
    draw.rectangle(box, fill=colours[0])
    draw.rectangle((left, top, (left + right) // 2, bottom), fill=colours[1])


def _colour(rng: np.random.Generator, hue: float, saturation: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, float(rng.uniform(0.6, 1.0)))
    return int(red * 255), int(green * 255), int(blue * 255)


def text(
    rng: np.random.Generator, words: Words, said: tuple[str, ...], trick: Evasion
) -> tuple[str, str]:
    """Return title and description: everyday words, with what is `said` somewhere, written by a trick."""
    benign = [str(word) for word in rng.choice(words.benign, int(rng.integers(7, 14)))]
    benign.append(f"no{int(rng.integers(1_000_000)):06d}")
    place = int(rng.integers(0, len(benign)))
    sentence = " ".join([*benign[:place], *said, *benign[place:]])
    hidden = hide(sentence, trick, rng).split(" ")
    return " ".join(hidden[:4]), " ".join(hidden[4:])
