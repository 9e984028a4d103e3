"""The one normalisation of listing text, for training and serving: the hidden is shown, and measured.

Original and normalised text both matter, so both are kept. Time is linear in the length of the text.
"""

import math
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

from moderation.confusables import STYLED, UNIFIED, plain
from moderation.leetspeak import resolve
from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS
from moderation.spoofing import unspoof

MAX_MODEL_CHARS: Final = 2_000
"""Characters that a text tower reads at most; far beyond its tokens, so that the cut costs nothing."""

MAX_DOCUMENT_CHARS: Final = MAX_TITLE_CHARS + 1 + MAX_DESCRIPTION_CHARS
"""Characters that the n-gram model reads at most; a compatibility character may unfold to eighteen."""

SIGNS: Final = (
    "length",
    "zero_width",
    "combining",
    "confusables",
    "styled",
    "leet",
    "separators",
    "repeats",
    "upper_share",
    "digits_share",
    "symbols_share",
    "foreign_share",
)
"""Names of the measured facts, in the order of every signs vector; each value lies in [0, 1]."""

# Letters that draw nothing: Hangul fillers, Braille blank, Khmer inherent vowels.
_BLANK: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800\u17b4\u17b5\u034f")
_SELECTOR: Final = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_MARKS: Final = (
    "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u3099\u309a\ufe20-\ufe2f"
)
_LOOSE_MARKS: Final = re.compile(f"[{_MARKS}]+")
_HIDDEN: Final = (
    "\u00ad\u061c\u180b-\u180f\u200b-\u200f\u2060-\u2064\u206a-\u206f\ufe00-\ufe0f\ufeff"
)
_ALPHABETIC: Final = "0-9A-Za-z\u00c0-\u024f\u0370-\u052f"
_INSIDE_A_WORD: Final = re.compile(f"(?<=[{_ALPHABETIC}])[{_HIDDEN}]+(?=[{_ALPHABETIC}])")
_OVERRIDE: Final = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_STYLED: Final = re.compile(
    f"[{''.join(STYLED)}\U0001d400-\U0001d7ff\U0001f110-\U0001f18f\u249c-\u24e9\u2100-\u214f]"
)
_FLAG_LETTERS: Final = re.compile("[\U0001f1e6-\U0001f1ff]+")
_STACKED: Final = re.compile(f"[A-Za-z0-9][{_MARKS}]+|[{_MARKS}]{{2,}}")
_UPPER: Final = re.compile("[A-Z\u00c0-\u00de\u0391-\u03ab\u0400-\u042f]")
_DIGIT: Final = re.compile(r"\d")
_SYMBOL: Final = re.compile(r"[^\w\s]")
_FOREIGN: Final = re.compile("[^\x00-\u024f\u1e00-\u1eff\u2000-\u2bff]")
_WIDE: Final = re.compile("[\U00010000-\U0001efff]")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]+")


@dataclass(frozen=True)
class Text:
    """One text in three readings, with what was measured on the way."""

    original: str
    normalised: str
    """As a reader sees it: nothing hidden, no look-alikes, one case, single spaces; accents and numbers kept."""

    folded: str
    """As an evader means it: accents stripped, leetspeak resolved, spelled-out words joined."""

    signs: dict[str, float]
    """How much was hidden, by the names of `SIGNS` in their order."""


class NgramText(NamedTuple):
    """What the n-gram model reads of one listing; both texts are empty when it has none."""

    normalised: str
    folded: str
    signs: tuple[float, ...]
    """Measured on the raw text, in the order of `SIGNS`; each in [0, 1]."""


class _Visible(dict[int, str | None]):
    """Translation table filled on first use: one verdict per character, for the life of the process."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        kind = unicodedata.category(character)
        verdict: str | None = character
        if character in "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85" or kind[0] == "Z":
            verdict = " "
        elif kind[0] == "C" or kind == "Me" or character in _BLANK or _SELECTOR.match(character):
            verdict = None
        else:
            verdict = STYLED.get(character) or UNIFIED.get(character) or character
        self[code] = verdict
        return verdict


class _Plain(dict[int, str]):
    """Translation table that strips accents, filled on first use."""

    def __missing__(self, code: int) -> str:
        self[code] = plain(chr(code))
        return self[code]


_VISIBLE: Final = _Visible()
_PLAIN: Final = _Plain()


def normalise(raw: str) -> Text:
    """Return the readings of one text and the signs of obfuscation in it.

    Args:
        raw: any string, lone surrogates and control characters included.

    Returns:
        The text as it was, as it looks, as it is meant, and `signs` with one value in [0, 1] per name of `SIGNS`.
        `normalised` is a fixed point: normalising it again changes nothing.

    Source:
        Unicode UAX #15 (NFKC), UTS #39 (look-alikes); arXiv 2206.04137 (a normaliser as defence).
    """
    shown, num_folded = _show(raw)
    folded, counts = _fold(shown)
    signs = _measure(raw, shown, counts | {"confusables": num_folded})
    return Text(original=raw, normalised=shown, folded=folded, signs=signs)


def document(title: str, description: str) -> Text:
    """Return title and description as one text, joined by a line break, each capped at its listing limit.

    A sign of the document is the larger of its two parts' values, except `length`, which is that of the whole.
    """
    parts = normalise(title[:MAX_TITLE_CHARS]), normalise(description[:MAX_DESCRIPTION_CHARS])
    first, second = parts
    signs = {name: max(first.signs[name], second.signs[name]) for name in SIGNS}
    original = f"{first.original}\n{second.original}"
    signs["length"] = _level(len(original), MAX_DOCUMENT_CHARS)
    return Text(
        original=original,
        normalised=f"{first.normalised}\n{second.normalised}"[:MAX_DOCUMENT_CHARS],
        folded=f"{first.folded}\n{second.folded}"[:MAX_DOCUMENT_CHARS],
        signs=signs,
    )


def ngram_texts(title: str, description: str) -> NgramText:
    """Return a listing as the n-gram model reads it; both texts are empty when it has none."""
    text = document(title, description)
    signs = tuple(text.signs[name] for name in SIGNS)
    return NgramText(text.normalised.strip(), text.folded.strip(), signs)


def model_text(title: str, description: str) -> str:
    """Return the text that a text tower reads: hidden words shown, accents kept; empty when the listing has no text."""
    parts = []
    for raw in (title[:MAX_TITLE_CHARS], description[: 2 * MAX_MODEL_CHARS]):
        shown, _ = _show(raw)
        parts.append(resolve(shown)[0])
    return ". ".join(part for part in parts if part)[:MAX_MODEL_CHARS]


def _show(raw: str) -> tuple[str, int]:
    """Return the text as a reader sees it, and how many look-alikes were folded."""
    if raw.isascii():
        return " ".join(_CONTROL.sub("", raw).casefold().split()), 0
    text, num_folded = unspoof(_compose(raw))
    folded = text.casefold()
    cased = _compose(folded)
    if len(cased) != len(text) or folded != text.lower():
        # Folding case may have spelled one letter out as two, or as another one, that look alike.
        cased = _compose(unspoof(cased)[0].casefold())
    text = cased
    return " ".join(text.split()), num_folded


def _compose(text: str) -> str:
    """Return `text` in NFKC without hidden characters, and with no mark that does not belong to its letter."""
    text = text.translate(_VISIBLE)
    marks = _marks(wide=_WIDE.search(text) is not None)
    text = unicodedata.normalize("NFKC", marks.run.sub(r"\1", text)).translate(_VISIBLE)
    text = _FLAG_LETTERS.sub(_unflag, text)
    text = marks.stray.sub("", _LOOSE_MARKS.sub("", text))
    return unicodedata.normalize("NFC", text)


class _Marks(NamedTuple):
    run: re.Pattern[str]
    """Sorting a long run of marks is quadratic inside NFKC; no written language stacks more than four."""

    stray: re.Pattern[str]
    """Marks of Thai, Arabic, ... on nothing, or on a letter of an alphabet that has none of them."""


@cache
def _marks(*, wide: bool) -> _Marks:
    """Return the patterns; a class with characters beyond the first plane is many times slower, and rarely needed."""
    codes = range(0x300, 0x1F000 if wide else 0x10000)
    mark = "".join(chr(c) for c in codes if unicodedata.category(chr(c)) in ("Mn", "Mc"))
    unmarked = "\\x00-\u058f\u13a0-\u13ff\u1d00-\u2dff\ua4d0-\ua4ff\ua640-\ua7ff\uab30-\uabbf"
    return _Marks(
        re.compile(f"([{mark}]{{4}})[{mark}]+"),
        re.compile(f"(?:^|(?<=[{unmarked}]))[{mark}]+"),
    )


def _unflag(match: re.Match[str]) -> str:
    """Return regional indicators as letters unless they pair up to flags."""
    run = match[0]
    return run if len(run) % 2 == 0 else "".join(chr(ord(c) - 0x1F1E6 + ord("a")) for c in run)


def _fold(shown: str) -> tuple[str, dict[str, int]]:
    """Return a shown text as it is meant, and what had to be resolved."""
    bare = shown if shown.isascii() else shown.translate(_PLAIN)
    return resolve(bare)


def _level(count: int, full: int = 16) -> float:
    """Return `count` on a logarithmic scale that reaches 1 at `full`."""
    return min(1.0, math.log1p(count) / math.log1p(full))


def _measure(raw: str, shown: str, counts: dict[str, int]) -> dict[str, float]:
    """Return the signs of one text; `counts` brings those that resolving it has counted."""
    length = max(len(raw), 1)
    ascii_only = raw.isascii()
    hidden = len(_CONTROL.findall(raw))
    marks = styled = foreign = 0
    if not ascii_only:
        hidden += sum(map(len, _INSIDE_A_WORD.findall(raw))) + len(_OVERRIDE.findall(raw))
        marks = sum(len(run) - 1 for run in _STACKED.findall(raw))
        styled = len(_STYLED.findall(raw))
        foreign = len(_FOREIGN.findall(shown))
    values = {
        "length": _level(len(raw), MAX_DOCUMENT_CHARS),
        "zero_width": _level(hidden),
        "combining": _level(marks),
        "confusables": _level(counts["confusables"]),
        "styled": _level(styled),
        "leet": _level(counts["leet"]),
        "separators": _level(counts["separators"]),
        "repeats": _level(counts["repeats"]),
        "upper_share": len(_UPPER.findall(raw)) / length,
        "digits_share": len(_DIGIT.findall(raw)) / length,
        "symbols_share": len(_SYMBOL.findall(raw)) / length,
        "foreign_share": foreign / max(len(shown), 1),
    }
    return {name: values[name] for name in SIGNS}
