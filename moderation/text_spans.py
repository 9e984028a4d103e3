"""Where in a text as it came lies what was found in one of its readings.

A reading drops characters (hidden ones, marks, separators), replaces others by what they look like or stand for, and
unfolds some, but never changes their order. With every character as the class of all that it may become or come from,
a reading is a subsequence of the original: the leftmost and the rightmost way to embed it bound where each character
lies.
"""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from typing import Final

from moderation.confusables import BACK, LOOSE, PLAIN, STRICT, STYLED, UNIFIED
from moderation.expressions import Span
from moderation.leetspeak import LEET
from moderation.text import normalise

_ONE: Final = {"1": "l"}, {"1": "i"}


def original_spans(original: str, reading: str, spans: Sequence[Span]) -> list[Span]:
    """Return the characters of the original that spans of a reading came from.

    A span covers all of them, with the combining marks on the last. It is wider only by dropped characters beside it
    that equal those that stayed: "ggg" of "gggun", read as "ggun". Should a reading not embed, the span is the whole
    text, which covers too. Time is linear in the text, once per reading, and only spent on a hit.

    Args:
        original: the text as it came.
        reading: the same text as it looks or as it is meant.
        spans: each not empty, within the reading.
    """
    if original == reading:
        return list(spans)
    keys = [_KEYS[letter] for letter in original]
    owner = [place for place, key in enumerate(keys) for _ in key]
    target = [_KEYS[letter] for letter in reading]
    num_before = [0, *accumulate(map(len, target))]
    bounds = embed("".join(keys), "".join(target))
    if not bounds:
        return [Span(0, len(original))] * len(spans)
    placed = []
    for span in spans:
        # A mark that was kept has no key of its own; it lies with the letter before it.
        last = max(num_before[span.end] - 1, 0)
        first = min(num_before[span.begin], last)
        end = owner[bounds[last][1]] + 1
        placed.append(Span(owner[bounds[first][0]], _with_marks(original, end)))
    return placed


def embed(source: str, target: str) -> list[tuple[int, int]] | None:
    """Return the leftmost and the rightmost place of each character of a subsequence; None if it is none.

    >>> embed("gggun", "ggun")
    [(0, 1), (1, 2), (3, 3), (4, 4)]
    """
    left = _leftmost(source, target)
    right = _leftmost(source[::-1], target[::-1])
    if left is None or right is None:
        return None
    return [(a, len(source) - 1 - b) for a, b in zip(left, reversed(right), strict=True)]


def _leftmost(source: str, target: str) -> list[int] | None:
    places, place = [], -1
    for letter in target:
        place = source.find(letter, place + 1)
        if place < 0:
            return None
        places.append(place)
    return places


def key_of(text: str) -> str:
    """Return a text as its characters' classes: what a reading shares with the text that it is read from."""
    return "".join(_KEYS[letter] for letter in text)


def _with_marks(original: str, end: int) -> int:
    while end < len(original) and unicodedata.category(original[end])[0] == "M":
        end += 1
    return end


class _Keys(dict[str, str]):
    """The classes of what a character becomes, one letter each; filled on first use."""

    def __missing__(self, letter: str) -> str:
        # Between letters, as inside a word: on its own a space, a mark or a flag's letter would be dropped.
        shown = _bare(normalise(f"x{letter}x").normalised)[1:-1]
        classes = _classes()
        self[letter] = key = "".join(classes.get(one, one) for one in shown)
        return key


_KEYS: Final = _Keys()


def _bare(text: str) -> str:
    """Return `text` taken apart into letters without marks, in one case, digits in ASCII."""
    letters: list[str] = []
    for letter in unicodedata.normalize("NFKD", text).casefold():
        if unicodedata.category(letter)[0] != "M":
            decimal = unicodedata.decimal(letter, None)
            letters.append(PLAIN.get(letter, letter) if decimal is None else str(decimal))
    return "".join(letters)


@cache
def _classes() -> dict[str, str]:
    """Return the representative of each letter that any of the normaliser's tables ties to another."""
    parents: dict[str, str] = {}

    def root(letter: str) -> str:
        while letter in parents:
            letter = parents[letter]
        return letter

    for first, second in _ties():
        one, other = root(first), root(second)
        if one != other:
            parents[max(one, other)] = min(one, other)
    return {letter: root(letter) for letter in parents}


def _ties() -> Iterable[tuple[str, str]]:
    tables = (STYLED, UNIFIED, STRICT, LOOSE, *BACK.values(), LEET, *_ONE)
    for table in tables:
        for letter, other in table.items():
            first, second = _bare(letter), _bare(other)
            if len(first) == len(second) == 1:
                yield first, second
