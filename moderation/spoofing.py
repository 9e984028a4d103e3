"""Words that mix scripts or are spelled with look-alikes, folded to the script that they pass for."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from moderation.confusables import BACK, LOOSE, SCRIPTS, SPOOFABLE_CLASS, STRICT

_SPOOFABLE: Final = re.compile(SPOOFABLE_CLASS)
_WORD: Final = re.compile(r"[^\W_]+")
_LETTERS: Final = re.compile(r"[^\W\d_]+")

# Latin letters that pass for one of another script, in one case or the other.
_AMBIGUOUS: Final = frozenset(letter.lower() for back in BACK.values() for letter in back)

# "iphone14про" and "20см" are two genuine words run together, not one that is spoofed.
_GENUINE_RUN: Final = 3


def unspoof(text: str) -> tuple[str, int]:
    """Return `text` with look-alikes folded where a word is spoofed, and how many characters that were.

    A word that mixes scripts is folded to Latin, or back to its own script when most of its unmistakable letters are of
    that one. A word of look-alikes alone is folded only where the text has Latin letters and no unmistakable letter
    of the word's script; genuine words of any script stay as they are.
    """
    if not _SPOOFABLE.search(text) or len({*map(SCRIPTS.__getitem__, set(text))} - {""}) < 2:
        return text, 0
    num_folded = 0

    def fold_mixed(match: re.Match[str]) -> str:
        return count(match[0], unspoof_word(match[0])) if _is_mixed(match[0]) else match[0]

    def fold_whole(match: re.Match[str]) -> str:
        word = match[0]
        if word.isascii() or not _passes_for_latin(word, genuine):
            return word
        return count(word, "".join(STRICT[letter] for letter in word))

    def count(word: str, folded: str) -> str:
        nonlocal num_folded
        num_folded += sum(before != after for before, after in zip(word, folded, strict=True))
        return folded

    # What the mixed words turn out to be is evidence for the others, so that folding twice changes nothing.
    text = _WORD.sub(fold_mixed, text)
    genuine = _genuine_scripts(word for word in _WORD.findall(text) if not _is_mixed(word))
    if "latin" in genuine:
        text = _WORD.sub(fold_whole, text)
    return text, num_folded


def unspoof_word(word: str) -> str:
    """Return one word that mixes scripts in the script that most of its unmistakable letters belong to."""
    votes: Counter[str] = Counter()
    for letter in word:
        own = SCRIPTS[letter]
        is_latin = own == "latin"
        if own and not (letter.lower()[0] in _AMBIGUOUS if is_latin else letter in STRICT):
            votes[own] += 1
    target = max(("latin", *BACK), key=lambda name: votes[name])
    if target == "latin":
        return "".join(LOOSE.get(letter, letter) for letter in word)
    back = BACK[target]
    return "".join(
        letter if SCRIPTS[letter] == target else back.get(LOOSE.get(letter, letter), letter)
        for letter in word
    )


def _is_mixed(word: str) -> bool:
    """Return whether letters of Latin and of scripts that resemble it meet in one word."""
    if word.isascii() or not _SPOOFABLE.search(word):
        return False
    if len({*map(SCRIPTS.__getitem__, word)} - {""}) < 2:
        return False
    return any(
        len(run) < _GENUINE_RUN or len({*map(SCRIPTS.__getitem__, run)} - {""}) > 1
        for run in _LETTERS.findall(word)
    )


def _genuine_scripts(words: Iterable[str]) -> frozenset[str]:
    """Return the scripts of which the words hold a letter that cannot be mistaken for another's."""
    found: set[str] = set()
    for word in words:
        found.update(SCRIPTS[letter] for letter in word if letter not in STRICT)
    return frozenset(found)


def _passes_for_latin(word: str, genuine: frozenset[str]) -> bool:
    """Return whether every letter of a word is a look-alike of Latin in a text that has no other use for its script."""
    return (
        len(word) > 1
        and all(letter in STRICT for letter in word)
        and SCRIPTS[word[0]] not in genuine
    )
