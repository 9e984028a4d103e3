"""Look-alikes of Latin letters in other scripts, as data: what a spoofed word is folded with.

Curated by hand from the shapes that sellers use to hide a word; compatibility forms (fullwidth, mathematical, circled
letters) are not here, because NFKC resolves them.
"""

import unicodedata
from bisect import bisect_right
from typing import Final

# First code point of each stretch and its script; "" means that its letters resemble no Latin ones.
_STRETCHES: Final = (
    (0x0000, "latin"),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "armenian"),
    (0x0590, ""),
    (0x13A0, "cherokee"),
    (0x1400, ""),
    (0x1C80, "cyrillic"),
    (0x1C90, ""),
    (0x1D00, "latin"),
    (0x1F00, "greek"),
    (0x2000, ""),
    (0x2C60, "latin"),
    (0x2C80, "coptic"),
    (0x2D00, ""),
    (0x2DE0, "cyrillic"),
    (0x2E00, ""),
    (0xA4D0, "lisu"),
    (0xA500, ""),
    (0xA640, "cyrillic"),
    (0xA6A0, ""),
    (0xA720, "latin"),
    (0xA800, ""),
    (0xAB30, "latin"),
    (0xAB70, "cherokee"),
    (0xABC0, ""),
)
_STARTS: Final = [start for start, _ in _STRETCHES]

SPOOFABLE: Final = "\u0370-\u058f\u13a0-\u13ff\u1c80-\u1c8f\u1f00-\u1fff\u2c80-\u2cff\u2de0-\u2dff"
SPOOFABLE_CLASS: Final = f"[{SPOOFABLE}\ua4d0-\ua4ff\ua640-\ua69f\uab70-\uabbf]"
"""Regular-expression class of every script that is told apart from Latin."""


def _pairs(foreign: str, latin: str) -> dict[str, str]:
    return dict(zip(foreign.split(), latin.split(), strict=True))


# Shapes that a reader takes for the Latin letter; a word made of these alone may be a spoof.
_STRICT: Final = {
    "cyrillic": _pairs(
        "а е о р с у х і ј ѕ һ ԛ ԝ ԁ ԍ ҽ ѵ ѡ ӏ А В Е К М Н О Р С Т У Х І Ј Ѕ Ԍ Ѵ Ӏ",
        "a e o p c y x i j s h q w d g e v w l A B E K M H O P C T Y X I J S G V I",
    ),
    "greek": _pairs(
        "α ε ι κ ν ο ρ τ υ χ ϳ Α Β Ε Ζ Η Ι Κ Μ Ν Ο Ρ Τ Υ Χ Ϳ",
        "a e i k v o p t u x j A B E Z H I K M N O P T Y X J",
    ),
    "armenian": _pairs("օ ո ս հ ց զ լ յ Օ Ս Լ Տ", "o n u h g q l j O U L S"),
    "cherokee": _pairs(
        "Ꭰ Ꭱ Ꭲ Ꭵ Ꭺ Ꭻ Ꭼ Ꮃ Ꮇ Ꮋ Ꮍ Ꮐ Ꮒ Ꮓ Ꮢ Ꮤ Ꮩ Ꮪ Ꮮ Ꮯ Ꮲ Ꮶ Ꮷ Ᏼ",
        "D R T i A J E W M H Y G h Z R W V S L C P K d B",
    ),
    "coptic": _pairs("ⲟ ⲣ ⲥ ⲭ ⲕ ⲓ Ⲟ Ⲣ Ⲥ Ⲭ Ⲕ Ⲓ Ⲏ Ⲙ Ⲛ Ⲧ Ⲩ Ⲃ", "o p c x k i O P C X K I H M N T Y B"),
    "lisu": _pairs(
        "ꓐ ꓑ ꓒ ꓓ ꓔ ꓖ ꓗ ꓙ ꓚ ꓜ ꓝ ꓟ ꓠ ꓡ ꓢ ꓣ ꓦ ꓧ ꓪ ꓫ ꓬ ꓮ ꓰ ꓲ ꓳ ꓴ",
        "B P d D T G K J C Z F M N L S R V H W X Y A E I O U",
    ),
}

# Shapes that pass for the Latin letter only inside a word that already mixes scripts.
_LOOSE: Final = {
    "cyrillic": _pairs(
        "в г и й к м н т п ш щ я з ь ъ ц д б э є ґ ё ї ў ѓ ќ ғ қ ң ө ү ұ ҳ Г И Й П Ш Я З Ь Д Б Э Є Ё Ї Ў Ғ Қ Ө Ү",
        "b r n n k m h t n w w r e b b u d b e e r e i y r k f k h o y y x r N N N W R E b D B E E E I Y F K O Y",
    ),
    "greek": _pairs(
        "β γ δ ζ η θ λ μ π σ ς ω ά έ ή ί ό ύ ώ ϊ Δ Θ Λ Σ Ω Ά Έ Ή Ί Ό Ύ",
        "b y d z n o a u n o s w a e n i o u w i A O A E O A E H I O Y",
    ),
    "armenian": _pairs("ա ե տ ր ք Ո Ր Ց", "w t s n p n n g"),
    "cherokee": {},
    "coptic": {},
    "lisu": {},
}


def _both_cases(pairs: dict[str, str]) -> dict[str, str]:
    """Return `pairs` with the other case of each letter, so that case folding never changes a verdict."""
    upper = {letter.upper(): latin.upper() for letter, latin in pairs.items()}
    lower = {letter.lower(): latin for letter, latin in pairs.items() if letter.isupper()}
    cherokee = {k: v for k, v in lower.items() if script(k) == "cherokee"}
    return {key: value for key, value in (upper | cherokee).items() if len(key) == 1} | pairs


def script(letter: str) -> str:
    """Return the script of one character: `latin`, a script that resembles it, or an empty string."""
    return _STRETCHES[bisect_right(_STARTS, ord(letter)) - 1][1]


class _Scripts(dict[str, str]):
    """Script of each letter, empty for what is no letter; filled on first use."""

    def __missing__(self, letter: str) -> str:
        self[letter] = script(letter) if letter.isalpha() else ""
        return self[letter]


SCRIPTS: Final = _Scripts()

STRICT: Final[dict[str, str]] = {
    foreign: latin for pairs in _STRICT.values() for foreign, latin in _both_cases(pairs).items()
}
LOOSE: Final[dict[str, str]] = {
    foreign: latin for pairs in _LOOSE.values() for foreign, latin in _both_cases(pairs).items()
} | STRICT

BACK: Final[dict[str, dict[str, str]]] = {
    "cyrillic": _pairs(
        "a c e o p x y k A B C E H K M O P T X Y", "а с е о р х у к А В С Е Н К М О Р Т Х У"
    ),
    "greek": _pairs(
        "a e i k o p t u v x A B E H I K M N O P T U V X Y Z",
        "α ε ι κ ο ρ τ υ ν χ Α Β Ε Η Ι Κ Μ Ν Ο Ρ Τ Υ Ν Χ Υ Ζ",
    ),
}
"""Latin letters that pass for one of the script, for words of that script with a Latin letter slipped in."""

STYLED: Final[dict[str, str]] = (
    dict(
        zip(
            "ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢɑɡɩƅ",
            "abcdefghijklmnoprstuvwyzagib",
            strict=True,
        )
    )
    | {chr(0x1F150 + i): chr(ord("a") + i) for i in range(26)}
    | {chr(0x1F170 + i): chr(ord("a") + i) for i in range(26)}
    | {"ϲ": "c", "Ϲ": "C"}
)
"""Stylised Latin that NFKC leaves alone and that no language is written with."""

UNIFIED: Final[dict[str, str]] = (
    dict.fromkeys("‐‑‒–—―−﹘⁃", "-") | dict.fromkeys("‘’‛`´ʼ", "'") | dict.fromkeys("“”„‟«»", '"')
) | {"⁄": "/", "∕": "/", "∶": ":", "‚": ",", "⁎": "*", "∗": "*", "İ": "I"}
"""Marks of one meaning and several shapes; the dotted capital I, which case folding would split in two."""

PLAIN: Final[dict[str, str]] = dict(zip("øłđıðħŋəɛɔƒɓɗƙ", "oldidhneeofbdk", strict=True)) | {
    "æ": "ae",
    "œ": "oe",
    "þ": "th",
}
"""Letters with a stroke or of their own that a reader without the language writes plainly."""

_KEPT: Final = frozenset("йїў")


def plain(letter: str) -> str:
    """Return `letter` without its accent, where the accent is one and not another letter; digits become ASCII."""
    if letter in PLAIN:
        return PLAIN[letter]
    decimal = unicodedata.decimal(letter, None)
    if decimal is not None:
        return str(decimal)
    if letter in _KEPT or script(letter) == "":
        return letter
    parts = unicodedata.normalize("NFD", letter)
    return unicodedata.normalize("NFC", "".join(c for c in parts if not unicodedata.combining(c)))
