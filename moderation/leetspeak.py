"""Words spelled with digits, signs or separators ("g1ock", "g.u.n"), resolved; numbers that mean something stay."""

import re
from typing import Final

from moderation.spoofing import unspoof

LEET: Final = {
    "0": "o", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i", "|": "l", "€": "e",
}  # fmt: skip
"""Stand-ins and the letter that each means; a 1 means `l` or `i`, which its neighbours say."""

_ALPHABET: Final = r"a-z\u00df-\u024f\u0370-\u052f"

# A letter, a stand-in (or two zeros), a letter: "p1stol", "gl00ck"; other digits in a row are a number.
_INSIDE: Final = re.compile(rf"(?<=[{_ALPHABET}])(?:00|[013457@$!|€])(?=[{_ALPHABET}])")
_SUSPECT: Final = re.compile(rf"[{_ALPHABET}][013457@$!|€]")
_WORD: Final = re.compile(rf"[{_ALPHABET}0-9@$!|€.]+")
_DOLLAR: Final = re.compile(rf"(?<![^\s])\$(?=[{_ALPHABET}]{{4}})")
_LAST_ZERO: Final = re.compile(rf"(?<=[{_ALPHABET}]{{3}})0(?![^\W_])")

# Product names in which the digit is a digit: "ps4pro", "mp3player", "m4a1", "a4paper".
_MODEL: Final = re.compile(
    r"(?:mp[34]|ps[1-5]|a[0-9]|co2|usb3|web3|gta[345]|[a-z]\d[a-z]\d(?!\w)|\w*\d(?:pro|max|ultra|plus|mini|lite|ti|gb|tb|mm|cm|kg|ml)\b)"
)
_ADDRESS: Final = re.compile(r"@[^@]*\.|\.[a-z]")

_ONSET_L: Final = frozenset("bcfgkps")
_VOWELS: Final = frozenset("aeiouyäöüáéíóú")

_ONE: Final = rf"[{_ALPHABET}]"
_ANY: Final = rf"[{_ALPHABET}0-9@$!]"
_END: Final = r"(?![^\W_])"


def _spelled(gap: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_]){_ONE}(?:{gap}{_ANY}{_END})+{gap}{_ONE}{_END}")


# One kind of gap within a word, so that the other one still ends it: "g.u.n a.m.m.o", "g u n".
_SPELLED: Final = (_spelled(r"(?: ?[.\-_*\u00b7\u2022|~]{1,3} ?|[,/\\'+])"), _spelled(" "))

# A lone Han or kana character is a word, so that only punctuation between them is an evasion.
_HAN: Final = r"\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u9fff"
_SPELLED_HAN: Final = re.compile(rf"(?<![^\W_])[{_HAN}](?:[.\-_*\u2022|~/]{{1,3}}[{_HAN}])+{_END}")
_NO_LETTER: Final = re.compile(rf"[^{_ALPHABET}0-9@$!{_HAN}]+")
_SIZES: Final = frozenset("smlx")
_REPEAT: Final = re.compile(r"([^\W\d_])\1{2,}")


def resolve(text: str) -> tuple[str, dict[str, int]]:
    """Return normalised text as it is meant, and how often each disguise had to be resolved.

    Args:
        text: normalised: one case, single spaces.

    Returns:
        The text, and counts of `separators` (words spelled out), `leet` (characters), `repeats` (stretched letters).
    """
    counts = {"separators": 0, "leet": 0, "repeats": 0}

    def join(match: re.Match[str]) -> str:
        letters = _NO_LETTER.sub("", match[0])
        if _SIZES.issuperset(letters):
            return match[0]
        counts["separators"] += 1
        return unspoof(letters)[0]

    def unstretch(match: re.Match[str]) -> str:
        counts["repeats"] += 1
        return match[1] * 2

    def unleet(match: re.Match[str]) -> str:
        word = unleet_word(match[0])
        counts["leet"] += sum(a != b for a, b in zip(match[0], word, strict=True))
        return word

    for spelled in _SPELLED:
        text = spelled.sub(join, text)
    if not text.isascii():
        text = _SPELLED_HAN.sub(join, text)
    if _SUSPECT.search(text):
        text = _WORD.sub(unleet, text)
    text, num_dollars = _DOLLAR.subn("s", text)
    counts["leet"] += num_dollars
    return _REPEAT.sub(unstretch, text), counts


def unleet_word(word: str) -> str:
    """Return one word with digits and signs between its letters read as letters.

    >>> [unleet_word(w) for w in ("g1ock", "k0p1ja", "si1encer", "iphone13", "mp3player")]
    ['glock', 'kopija', 'silencer', 'iphone13', 'mp3player']
    """
    if _MODEL.match(word) or ("@" in word and _ADDRESS.search(word)):
        return word
    resolved = _INSIDE.sub(_letters, word)
    resolved = _LAST_ZERO.sub("o", resolved)
    return _ends(resolved) if resolved != word else word


def _letters(match: re.Match[str]) -> str:
    """Return the letters that a stand-in means between its neighbours."""
    left, right = match.string[match.start() - 1], match.string[match.end()]
    return "".join(LEET.get(sign) or _one(left, right) for sign in match[0])


def _one(left: str, right: str) -> str:
    """Return `l` or `i` for a 1, whichever can be spoken between two letters: "g1ock", "p1stol"."""
    if right in _VOWELS:
        return "l" if left in _VOWELS or left in _ONSET_L else "i"
    return "l" if left in _VOWELS else "i"


def _ends(word: str) -> str:
    """Return a word known to be disguised with a stand-in at either end resolved too: "5il3ncer", "r1fl3"."""
    first, last = word[0], word[-1]
    if first in LEET and word[1:2].isalpha():
        word = LEET[first] + word[1:]
    if last in "034" and word[-2:-1].isalpha():
        word = word[:-1] + LEET[last]
    return word
