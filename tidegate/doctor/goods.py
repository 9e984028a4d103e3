"""What a listing of the doctor's world shows: a tinted photo, and words of three languages.

A violation of a policy shows the policy's colour, or says one of its telling words, or both. Honest look-alikes say
the same words with an explanation, and carry other colours; many honest sellers write in tricks too.
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
_COARSE: Final = 7
_NUM_BENIGN: Final = 60
_NUM_TELLING: Final = 5
_SYLLABLES: Final = {
    "en": ("lamp", "er", "ing", "bo", "ther", "wal", "nut", "ship", "ly", "gar", "den", "mo"),
    "de": ("schu", "lich", "keit", "un", "ber", "zei", "auf", "stein", "hau", "gen", "mut", "wer"),
    "es": ("ción", "lla", "ro", "ca", "mi", "do", "ven", "ta", "po", "que", "ba", "niño"),
}
_TELLING_SYLLABLES: Final = ("kra", "vox", "zul", "pym", "gri", "dro", "fex", "jat", "wub", "qui")


@dataclass(frozen=True)
class Words:
    """The vocabulary of one language."""

    benign: tuple[str, ...]
    telling: tuple[tuple[str, ...], ...]
    """Of each policy."""

    explaining: tuple[str, ...]
    """Said right before a telling word by whoever sells a harmless thing of that name."""

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
                tuple(draw(_TELLING_SYLLABLES, 3) for _ in range(_NUM_TELLING))
                for _ in range(num_policies)
            ),
            explaining=tuple(draw(own, 3) for _ in range(2)),
            hints=tuple(draw(_TELLING_SYLLABLES, 2) for _ in range(num_policies)),
        )
    return found


def photo(rng: np.random.Generator, policy: int | None, num_policies: int) -> bytes:
    """Return a small JPEG: a grey texture of its own, with a patch of the policy's colour or of an honest one."""
    grey = rng.integers(40, 216, (_COARSE, _COARSE), dtype=np.uint8)
    image = Image.fromarray(grey).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).convert("RGB")
    left, top = (int(place) for place in rng.integers(2, 22, 2))
    width, height = (int(size) for size in rng.integers(30, 40, 2))
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape((left, top, left + width, top + height), fill=_colour(rng, policy, num_policies))
    noise = rng.normal(0, 6, (_SIDE, _SIDE, 3))
    pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=92, subsampling=0)
    return stream.getvalue()


def _colour(
    rng: np.random.Generator, policy: int | None, num_policies: int
) -> tuple[int, int, int]:
    """Return a strong colour of the policy, or a pale one of any hue."""
    if policy is None:
        hue, saturation = float(rng.random()), float(rng.uniform(0, 0.25))
    else:
        hue = (policy + float(rng.uniform(-0.12, 0.12))) / num_policies
        saturation = float(rng.uniform(0.85, 1.0))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, saturation, float(rng.uniform(0.75, 1.0)))
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
