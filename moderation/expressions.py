"""Analysts' expressions on RE2, and where a word begins or ends in any script.

RE2 never backtracks: time is linear in the text, whatever the expression.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any, Final, NamedTuple

import re2

MAX_STEPS: Final = 4_000
"""Instructions of a compiled expression at most. Where its automaton does not fit into memory, RE2 simulates it step by
step: time is at worst steps times characters."""

_MEMORY_BYTES: Final = 8 * 2**20
"""Of one expression, compiled form and cache of its automaton; RE2 forgets states beyond it."""

_ANY_BYTE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\C")

_EMPTY_PROBES: Final = ("", "a", "a b", " ")

# Blocks that are written without spaces between words; a reader sees words there, a program does not.
_UNSPACED: Final = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),
    (0x20000, 0x3FFFF),
)


class Span(NamedTuple):
    """Characters of a text, from `begin` up to and without `end`."""

    begin: int
    end: int


def has_edge(text: str, place: int) -> bool:
    """Return whether a word may begin or end before the character at `place`.

    It may not between two word characters (letters, marks, digits, underscore) of scripts with spaces, and nowhere
    before a combining mark on a letter. In Han, kana, Thai, Lao, Khmer, Myanmar and Tibetan it may at every letter.

    >>> [has_edge("a枪ab c", place) for place in range(7)]
    [True, True, True, False, True, True, True]
    """
    if place in (0, len(text)):
        return True
    left, right = text[place - 1], text[place]
    if not (_is_word(left) and _is_word(right)):
        return True
    if unicodedata.category(right)[0] == "M":
        return False
    return _is_unspaced(left) or _is_unspaced(right)


def _is_word(letter: str) -> bool:
    return letter == "_" or unicodedata.category(letter)[0] in "LMN"


def _is_unspaced(letter: str) -> bool:
    return any(first <= ord(letter) <= last for first, last in _UNSPACED)


class Expression:
    """One compiled expression; case is ignored."""

    def __init__(self, text: str, *, word_boundaries: bool) -> None:
        """Compile an expression of RE2's syntax.

        Raises:
            ValueError: if it is wrong, too large, or matches the empty text; the message says which.
        """
        if _ANY_BYTE.search(text):
            raise ValueError("splits characters by \\C; write a dot")
        compiled = _compiled(text)
        if compiled.programsize > MAX_STEPS:
            raise ValueError(
                f"compiles to {compiled.programsize} steps of {MAX_STEPS}; make it shorter, or its repeats fewer"
            )
        for probe in _EMPTY_PROBES:
            found = compiled.search(probe.encode())
            if found and found.start() == found.end():
                raise ValueError("matches the empty text, which is everywhere; ask for a character")
        self._group = int(word_boundaries)
        self._compiled = _compiled(_between_edges(text)) if word_boundaries else compiled

    def find(self, data: bytes, most: int) -> list[tuple[int, int]]:
        """Return the bytes that match, leftmost first and without overlap; at most `most` of them.

        With word boundaries, a match stands at either end of the text or beside a character that is no part of a word,
        or of a script without spaces.

        Args:
            data: UTF-8.
            most: matches after which the search ends.
        """
        return list(self._each(data, most))

    def _each(self, data: bytes, most: int) -> Iterator[tuple[int, int]]:
        place = 0
        for _ in range(most):
            found = self._compiled.search(data, place)
            if found is None:
                return
            begin, end = found.span(self._group)
            if begin < end:
                yield begin, end
            # The last character may itself be the edge before the next match.
            place = _before(data, end) if self._group else end
            if place <= begin:
                place = _after(data, begin)


def _before(data: bytes, place: int) -> int:
    """Return where the character before `place` begins."""
    place -= 1
    while place > 0 and data[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _after(data: bytes, place: int) -> int:
    """Return where the character after the one at `place` begins."""
    place += 1
    while place < len(data) and data[place] & 0xC0 == 0x80:
        place += 1
    return place


def _compiled(text: str) -> Any:
    options = re2.Options()
    options.case_sensitive = False
    options.max_mem = _MEMORY_BYTES
    options.log_errors = False
    try:
        # As bytes, so that offsets are not counted anew for every match.
        return re2.compile(text.encode(), options)
    except re2.error as error:
        said = error.args[0]
        raise ValueError(said.decode() if isinstance(said, bytes) else str(said)) from error


def _between_edges(text: str) -> str:
    """Return an expression whose group 1 is `text` between edges of words; RE2's own know ASCII alone."""
    before, after = _edge_class(marks=True), _edge_class(marks=False)
    other = r"[^\pL\pM\pN_]"
    return f"(?:^|{other}|{before})({text})(?:$|{other}|{after})"


@cache
def _edge_class(*, marks: bool) -> str:
    """Return the class of characters of scripts without spaces; a mark ends no word before it."""
    parts = []
    for first, last in _UNSPACED:
        if marks or first >= 0x3100:
            parts.append(rf"\x{{{first:x}}}-\x{{{last:x}}}")
        else:
            codes = (c for c in range(first, last + 1) if unicodedata.category(chr(c))[0] != "M")
            parts.extend(rf"\x{{{code:x}}}" for code in codes)
    return f"[{''.join(parts)}]"


def check_plain(text: str) -> None:
    """Refuse what UTF-8 cannot hold.

    Raises:
        ValueError: for a lone surrogate.
    """
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("holds a lone surrogate; write UTF-8")
