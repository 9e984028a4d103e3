"""Rewriting some words of a listing: telling ones first, within the limits that a listing must keep."""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from moderation.attacks.registry import Subject
from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS

Rewrite = Callable[[str, np.random.Generator], str]
"""Gives a word written in another way, or the word itself where it cannot be."""

_GAPS: Final = re.compile(r"(\s+)")
_JAMO: Final = ("\u1100", "\u11ff")
_MIN_PART: Final = 4
"""Letters of a telling word that are enough to know it inside another."""


def rewrite_words(
    subject: Subject, rewrite: Rewrite, *, share: float, rng: np.random.Generator
) -> Subject:
    """Return the listing with a share of the words of title and description rewritten; what stands between them stays.

    Args:
        subject: its telling words are rewritten first, others in random order.
        rewrite: may make a word longer; where the text would grow too long, the word stays.
        share: of the words that are rewritten, at least one of each text.
        rng: draws words and what becomes of them.
    """
    telling = telling_parts(subject.words)

    def rewritten(text: str, limit: int) -> str:
        pieces = _GAPS.split(text)
        places = [at for at, piece in enumerate(pieces) if piece and not piece.isspace()]
        order = [places[at] for at in rng.permutation(len(places))]
        order.sort(key=lambda at: not is_telling(pieces[at], telling))
        wanted, room = math.ceil(min(share, 1.0) * len(places)), limit - len(text)
        for at in order:
            if wanted <= 0:
                break
            word = rewrite(pieces[at], rng)
            if word == pieces[at] or len(word) - len(pieces[at]) > room:
                continue
            room -= len(word) - len(pieces[at])
            pieces[at], wanted = word, wanted - 1
        return "".join(pieces)

    title = rewritten(subject.title, MAX_TITLE_CHARS)
    return replace(
        subject, title=title, description=rewritten(subject.description, MAX_DESCRIPTION_CHARS)
    )


def telling_parts(words: Sequence[str]) -> frozenset[str]:
    """Return the single words, one case, of which keywords and phrases are made."""
    return frozenset(part for word in words for part in word.casefold().split())


def is_telling(word: str, telling: frozenset[str]) -> bool:
    """Return whether a word is a telling one, or holds one that is long enough to be known inside another."""
    core = word.casefold().strip(".,:;!?()[]\"'-")
    return core in telling or any(len(part) >= _MIN_PART and part in core for part in telling)


def letters_of(word: str, known: Mapping[str, str]) -> list[int]:
    """Return where a word has letters of a table, and no mark on them that would be lost."""
    return [
        at
        for at, letter in enumerate(word)
        if letter in known and not (at + 1 < len(word) and unicodedata.combining(word[at + 1]))
    ]


def seams(word: str) -> list[int]:
    """Return where something can be put between two letters of a word without tearing a letter from its marks."""
    return [at for at in range(1, len(word)) if _is_letter(word[at - 1]) and _is_letter(word[at])]


def _is_letter(character: str) -> bool:
    """Return whether a character is a letter that is drawn on its own; the parts of a Korean syllable are not."""
    return character.isalpha() and not _JAMO[0] <= character <= _JAMO[1]
