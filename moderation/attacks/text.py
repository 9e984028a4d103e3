"""Attacks on the words of a listing: written otherwise, read the same.

The families are those that training views know too, so none of them is used here as it is there: look-alikes come from
other scripts, signs from another table, separators are other ones, typos are other slips. A training view touches one
letter of a few words; these touch most words. What a view never does (hidden characters, lost spaces, other alphabets,
padding) is here alone. A test compares the tables.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from moderation.attacks.alphabets import KEYBOARD, LOOK_ALIKES, PADDING, SIGNS, SOUNDS
from moderation.attacks.registry import Subject, attack
from moderation.attacks.words import Rewrite, letters_of, rewrite_words, seams
from moderation.listing import MAX_DESCRIPTION_CHARS

HIDDEN: Final = "\u00ad\u2061\u2062\u2063\u2064\ufeff"
"""Characters that draw nothing and do not part the letters of a joined script."""

SEPARATORS: Final = "*~|/\u00b7\u2022"
SPACES: Final = " \u2009\u202f\u00a0"

_WORD_SHARE: Final = 0.6
"""Words that are rewritten at severity 1."""

_LETTER_SHARE: Final = 0.5
_MAX_SPELLED: Final = 12
_MIN_MISSPELT: Final = 4
_LETTERS_PER_TYPO: Final = 7
_GLUE_SHARE: Final = 0.3
_BETWEEN_LETTERS: Final = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
_MIN_PADDING: Final = 300
_PADDING_PER_TEXT: Final = 2.0
_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+")


@attack("homoglyph", family="text")
def homoglyph(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with letters exchanged for letters of another script and the same shape."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        return _exchange(word, LOOK_ALIKES, rng)

    return _rewritten(subject, severity, rng, rewrite)


@attack("leet", family="text")
def leet(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with letters exchanged for signs that are read as them."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        return _exchange(word, _SIGNS, rng)

    return _rewritten(subject, severity, rng, rewrite)


@attack("zero_width", family="text")
def zero_width(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with characters between its letters that draw nothing."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        places = _some(seams(word), 1 / 3, rng)
        return _insert(word, {at: _one(HIDDEN, rng) for at in places})

    return _rewritten(subject, severity, rng, rewrite)


@attack("separators", family="text")
def separators(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with signs between the letters of its words, the same within a word."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        places = seams(word)
        if len(places) >= _MAX_SPELLED:
            places = _some(places, 1 / 3, rng)
        return _insert(word, dict.fromkeys(places, _one(SEPARATORS, rng)))

    return _rewritten(subject, severity, rng, rewrite)


@attack("spacing", family="text")
def spacing(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with words torn apart by spaces, and others run together."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        return _insert(word, dict.fromkeys(_some(seams(word), 0.2, rng), _one(SPACES, rng)))

    def glue(text: str) -> str:
        share = min(1.0, _GLUE_SHARE * severity)
        return _BETWEEN_LETTERS.sub(lambda gap: "" if rng.random() < share else gap[0], text)

    glued = replace(subject, title=glue(subject.title), description=glue(subject.description))
    return _rewritten(glued, severity, rng, rewrite)


@attack("typos", family="text")
def typos(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with letters doubled, or hit beside the key that was meant."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        lower = word.lower()
        if len(word) < _MIN_MISSPELT or len(lower) != len(word) or any(map(str.isdigit, word)):
            return word
        letters = list(word)
        for at in _some(letters_of(lower, _BESIDE)[1:], 1 / _LETTERS_PER_TYPO, rng):
            other = _as(word[at], _one(_BESIDE[lower[at]], rng))
            letters[at] = word[at] * 2 if rng.random() < 0.5 else other
        return "".join(letters)

    return _rewritten(subject, severity, rng, rewrite)


@attack("transliteration", family="text")
def transliteration(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
    """Return the listing with words spelt by their sound in another alphabet: Latin, Cyrillic; Greek in Latin."""

    def rewrite(word: str, rng: np.random.Generator) -> str:
        return transliterated(word)

    return _rewritten(subject, severity, rng, rewrite)


@attack("benign_padding", family="text")
def benign_padding(subject: Subject, severity: float, rng: np.random.Generator) -> Subject | None:
    """Return the listing with honest sentences before and behind its description, which stays as it is."""
    text = subject.description
    wanted = severity * max(_MIN_PADDING, _PADDING_PER_TEXT * (len(subject.title) + len(text)))
    room = min(int(wanted), MAX_DESCRIPTION_CHARS - len(text)) // 2 - 1
    if not (subject.title + text).strip():
        return None
    lines = _honest_lines(subject)
    before, behind = (_sentences(lines, room, rng) for _ in range(2))
    return replace(subject, description=" ".join(filter(None, (before, text, behind))))


def transliterated(word: str) -> str:
    """Return a word in another alphabet; a word with a letter that no table knows stays as it is.

    >>> [transliterated(word) for word in ("Пистолет", "shotgun", "手枪")]
    ['Pistolet', 'шотгун', '手枪']
    """
    composed = unicodedata.normalize("NFC", word)
    letters = [letter for letter in composed.lower() if letter.isalpha()]
    for spelling, table in _SPELLINGS if letters else ():
        if all(letter in table for letter in letters):
            parts = _parts(spelling, composed)
            return "".join(_as(part, table.get(part.lower(), part)) for part in parts)
    return word


def _rewritten(
    subject: Subject, severity: float, rng: np.random.Generator, rewrite: Rewrite
) -> Subject:
    return rewrite_words(subject, rewrite, share=_WORD_SHARE * severity, rng=rng)


def _exchange(word: str, table: Mapping[str, str], rng: np.random.Generator) -> str:
    letters = list(word)
    for at in _some(letters_of(word, table), _LETTER_SHARE, rng):
        letters[at] = _one(table[word[at]], rng)
    return "".join(letters)


def _insert(word: str, marks: Mapping[int, str]) -> str:
    """Return the word with each mark before the letter at its place."""
    return "".join(marks.get(at, "") + letter for at, letter in enumerate(word))


def _some(places: Sequence[int], share: float, rng: np.random.Generator) -> list[int]:
    """Return a share of the places, at least one of them."""
    number = min(len(places), max(1, round(share * len(places))))
    return [places[at] for at in rng.permutation(len(places))[:number]]


def _one(choices: str, rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _as(sample: str, text: str) -> str:
    """Return a text with a capital where the sample has one."""
    return text.capitalize() if sample[0].isupper() else text


def _parts(spelling: re.Pattern[str], word: str) -> list[str]:
    """Return the word cut into what a table spells, and what it does not."""
    return [part for part in spelling.split(word) if part]


def _honest_lines(subject: Subject) -> list[str]:
    """Return sentences of an honest neighbour, and of our own in the script of the listing."""
    names = [unicodedata.name(c, "").split(" ")[0] for c in subject.title + subject.description]
    script = max(PADDING, key=names.count)
    neighbour = "" if subject.neighbour is None else subject.neighbour.description
    return [line for line in _SENTENCE_END.split(neighbour) if line.strip()] + [*PADDING[script]]


def _sentences(lines: Sequence[str], room: int, rng: np.random.Generator) -> str:
    """Return sentences in random order, over and over, that fit together into `room` characters."""
    text = ""
    while True:
        for at in rng.permutation(len(lines)):
            longer = f"{text} {lines[at]}" if text else lines[at]
            if len(longer) > room:
                return text
            text = longer


def _beside() -> dict[str, str]:
    pairs = [
        (row[at], row[at - 1 : at] + row[at + 1 : at + 2])
        for row in KEYBOARD
        for at in range(len(row))
    ]
    return dict(pairs)


_BESIDE: Final = _beside()
_SIGNS: Final = SIGNS | {letter.upper(): sign for letter, sign in SIGNS.items()}
_SPELLINGS: Final = tuple(
    (re.compile(f"({'|'.join(sorted(table, key=len, reverse=True))})", re.IGNORECASE), table)
    for table in SOUNDS
)
