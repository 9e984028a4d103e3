"""Tricks that hide telling words from a filter, and how their fashion changes over the life of a world."""

from enum import StrEnum
from typing import Final

import numpy as np

_LEET: Final = str.maketrans("aeiostAEIOSTоазчбОАЗЧБ", "4310574310570@3460@346")
_HOMOGLYPH: Final = str.maketrans(
    "aceopxyiABCEHKMOPTXасеорхуАВСЕНКМОРТХ", "асеорхуіАВСЕНКМОРТХaceopxyABCEHKMOPTX"
)
_ZERO_WIDTH: Final = ("\u200b", "\u200d", "\u2060")
_VOWELS: Final = frozenset("aeiouäöüáéíóúаеёиоуыэюя")
_MIN_CHARS: Final = 3
_WORD_SHARE: Final = 0.85
_LEET_SHARE: Final = 0.6


class Evasion(StrEnum):
    """How telling words are hidden."""

    NONE = "none"
    LEET = "leet"
    SEPARATORS = "separators"
    HOMOGLYPH = "homoglyph"
    ZERO_WIDTH = "zero_width"
    VOWELS = "vowels"
    """Vowels dropped: nobody does it until a drift brings it."""


_EARLY: Final = {
    Evasion.NONE: 0.70,
    Evasion.LEET: 0.18,
    Evasion.SEPARATORS: 0.08,
    Evasion.HOMOGLYPH: 0.04,
}
_LATE: Final = {Evasion.NONE: 0.55, Evasion.LEET: 0.09, Evasion.SEPARATORS: 0.09, Evasion.HOMOGLYPH: 0.15}  # fmt: skip
TRICKS: Final = tuple(Evasion)


def fashion(progress: float, new_evasion: float) -> np.ndarray:
    """Return the chance of each trick, at `progress` (0 to 1) through the world's life.

    Args:
        progress: share of the simulated days that have passed.
        new_evasion: share of evaders that use the trick of the drift.
    """
    chances = np.array(
        [
            (1 - progress) * _EARLY.get(trick, 0.0) + progress * _LATE.get(trick, 0.0)
            for trick in TRICKS
        ]
    )
    chances[TRICKS.index(Evasion.ZERO_WIDTH)] = 1 - chances.sum()
    chances *= 1 - new_evasion
    chances[TRICKS.index(Evasion.VOWELS)] += new_evasion
    return chances


def hide(text: str, trick: Evasion, rng: np.random.Generator) -> str:
    """Return `text` with most of its words written by `trick`."""
    if trick is Evasion.NONE:
        return text
    words = [
        _hide_word(word, trick, rng)
        if len(word) >= _MIN_CHARS and word.isalpha() and rng.random() < _WORD_SHARE
        else word
        for word in text.split(" ")
    ]
    return " ".join(words)


def _hide_word(word: str, trick: Evasion, rng: np.random.Generator) -> str:
    if trick is Evasion.LEET:
        letters = [c.translate(_LEET) if rng.random() < _LEET_SHARE else c for c in word[1:]]
        return word[0] + "".join(letters)
    if trick is Evasion.HOMOGLYPH:
        return word.translate(_HOMOGLYPH)
    if trick is Evasion.SEPARATORS:
        return (".", "-", " ", "_")[int(rng.integers(4))].join(word)
    if trick is Evasion.ZERO_WIDTH:
        cut = int(rng.integers(1, len(word)))
        return word[:cut] + _ZERO_WIDTH[int(rng.integers(3))] + word[cut:]
    return word[0] + "".join(letter for letter in word[1:] if letter.lower() not in _VOWELS)
