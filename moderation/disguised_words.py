"""Words of a literal that something else than one space keeps apart, or nothing does: "hollow-point", "g u n  a m m o".

Only signs between two words are read as a space, and underscores anywhere; no comma, and no full stop that ends a
sentence, so that words of two sentences do not meet.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from moderation.expressions import Span
from moderation.text import Text, normalise

_SIGN: Final = r"[-_*\u00b7\u2022|~/\\\u2010-\u2015]"
_LETTER: Final = r"[^\W\d_]"
_LETTER_OR_DIGIT: Final = r"[^\W_]"
_REST: Final = rf"(?: ?{_SIGN})* ?"
# Begins with a class, which the engine skips to; what stands before the sign is looked at after it.
_SEPARATORS: Final = re.compile(
    rf"{_SIGN[:-1]}.](?:"
    rf"(?:(?<={_LETTER}{_SIGN})|(?<={_LETTER} {_SIGN})){_REST}(?={_LETTER_OR_DIGIT})"
    rf"|(?:(?<=\d{_SIGN})|(?<=\d {_SIGN})){_REST}(?={_LETTER})"
    rf"|(?<={_LETTER}\.)(?={_LETTER_OR_DIGIT})|(?<=\d\.)(?={_LETTER})"
    r"|(?<=_)_*)"
)
_WIDE_GAP: Final = re.compile(r"\s{2,}|\n")
# Is no separator of spelled-out words, so that it ends one.
_STOP: Final = " ; "
_WRITTEN_OUT: Final = re.compile(r"[^\W_]{2}")


def part(text: str) -> str:
    """Return a reading of a text with one space where signs separate its words.

    >>> part("hollow-point, a_b | c 9-11 t.me it. _so_")
    'hollow point, a b c 9-11 t me it. so '
    """
    return _SEPARATORS.sub(_space, text)


def _space(gap: re.Match[str]) -> str:
    """Return the space that stands for signs, none where there is one before them."""
    return "" if gap.string[gap.start() - 1 : gap.start()] == " " else " "


def unpart(text: str, spans: Sequence[Span]) -> list[Span]:
    """Return where in a text lies what was found in it parted; no span begins or ends in a separator."""
    places: list[int] = []
    last = 0
    for gap in _SEPARATORS.finditer(text):
        places.extend(range(last, gap.start() + len(_space(gap))))
        last = gap.end()
    places.extend(range(last, len(text)))
    return [Span(places[begin], places[end - 1] + 1) for begin, end in spans]


def spelled_readings(text: Text) -> Iterator[str]:
    """Yield the readings of a text in which words that were spelled letter by letter are joined; mostly none.

    The second one, where spaces are wider in places, joins no letters across those: "g u n  a m m o" is two words.
    """
    if not text.signs["separators"]:
        return
    yield text.folded
    if _WIDE_GAP.search(text.original):
        yield normalise(_WIDE_GAP.sub(_STOP, text.original)).folded.replace(_STOP, " ")


def is_spelled(original: str) -> bool:
    """Return whether a stretch of a text as it came has no two letters side by side."""
    return not _WRITTEN_OUT.search(normalise(original).normalised)
