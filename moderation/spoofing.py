"""Words that mix scripts or are spelled with look-alikes, folded to the script that they pass for."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

from moderation.confusables import BACK, LOOSE, SPOOFABLE_CLASS, STRICT, script

_SPOOFABLE: Final = re.compile(SPOOFABLE_CLASS)
_WORD: Final = re.compile(r"[^\W_]+")
_LETTERS: Final = re.compile(r"[^\W\d_]+")

# "iphone14про" and "20см" are two genuine words run together, not one that is spoofed.
_GENUINE_RUN: Final = 3


def unspoof(text: str) -> tuple[str, int]:
    """Return `text` with look-alikes folded where a word is spoofed, and how many characters that were.

    A word that mixes scripts is folded to Latin, or back to its own script when most of its unmistakable letters are of
    that one. A word of look-alikes alone is folded only where the text has Latin letters and no unmistakable letter
    of the word's script; genuine words of any script stay as they are.
    """
    if not _SPOOFABLE.search(text):
        return text, 0
    words = _WORD.findall(text)
    mixed = [_is_mixed(word) for word in words]
    genuine = _genuine_scripts(
        word for word, is_mixed in zip(words, mixed, strict=True) if not is_mixed
    )
    verdicts = iter(mixed)
    num_folded = 0

    def fold(match: re.Match[str]) -> str:
        nonlocal num_folded
        word = match[0]
        if next(verdicts):
            folded = unspoof_word(word)
        elif "latin" in genuine and _passes_for_latin(word, genuine):
            folded = "".join(STRICT[letter] for letter in word)
        else:
            return word
        num_folded += sum(before != after for before, after in zip(word, folded, strict=True))
        return folded

    return _WORD.sub(fold, text), num_folded


def unspoof_word(word: str) -> str:
    """Return one word that mixes scripts in the script that most of its unmistakable letters belong to."""
    votes: Counter[str] = Counter()
    for letter in word:
        own = script(letter)
        if own == "latin":
            votes["latin"] += letter.isalpha() and not any(letter in back for back in BACK.values())
        elif own and letter not in STRICT:
            votes[own] += 1
    target = max(("latin", *BACK), key=lambda name: votes[name])
    if target == "latin":
        return "".join(LOOSE.get(letter, letter) for letter in word)
    back = BACK[target]
    return "".join(
        letter if script(letter) == target else back.get(LOOSE.get(letter, letter), letter)
        for letter in word
    )


def _is_mixed(word: str) -> bool:
    """Return whether letters of Latin and of scripts that resemble it meet in one word."""
    if word.isascii() or not _SPOOFABLE.search(word):
        return False
    runs = [{script(letter) for letter in run} - {""} for run in _LETTERS.findall(word)]
    if len(set().union(*runs)) < 2:
        return False
    lengths = map(len, _LETTERS.findall(word))
    return any(
        len(scripts) > 1 or length < _GENUINE_RUN
        for scripts, length in zip(runs, lengths, strict=True)
    )


def _genuine_scripts(words: Iterable[str]) -> frozenset[str]:
    """Return the scripts of which the words hold a letter that cannot be mistaken for another's."""
    found: set[str] = set()
    for word in words:
        found.update(script(letter) for letter in word if letter.isalpha() and letter not in STRICT)
    return frozenset(found)


def _passes_for_latin(word: str, genuine: frozenset[str]) -> bool:
    """Return whether every letter of a word is a look-alike of Latin in a text that has no other use for its script."""
    return (
        len(word) > 1
        and all(letter in STRICT for letter in word)
        and script(word[0]) not in genuine
    )
