"""Letters that attacks write in the place of others, as data.

None of these pairs is one that a training view writes: a model that only learnt the views has not seen them.
"""

import unicodedata
from typing import Final

from moderation.confusables import BACK

# Other letters of the same shape; those of the training views (plain Cyrillic) are left out.
_SHAPES: Final = dict(
    pair.split(":")
    for pair in (
        "a:ɑα b:Ꮟ c:ϲⲥⅽ d:ԁⅾ e:ҽ f:ք g:ɡց h:һհ i:ıі j:ϳј l:ⅼǀ n:ոռ o:οօⲟ p:ρⲣ q:ԛգ r:ᴦⲅ s:ѕꜱ u:υսᴜ v:νѵⅴ w:ԝաᴡ "
        "x:ⅹ y:γʏү z:ᴢ A:ΑᎪ B:ΒᏴ C:ϹⅭᏟ D:ⅮᎠ E:ΕᎬ F:Ϝ G:ԌᏀ H:ΗᎻ J:ЈᎫ K:ΚᏦ L:ⅬᏞ M:ΜᎷⅯ N:ΝⲚ O:ΟՕ P:ΡᏢ R:ᎡᏒ S:ЅՏᏚ T:ΤᎢ "
        "U:Ս V:ᏙⅤ W:ᎳԜ X:ΧⅩ Y:ΥᎩ Z:ΖᏃ"
    ).split()
)
_KANA: Final = "カ力 ロ口 タ夕 エ工 ハ八 ト卜 ニ二 へヘ"


def _look_alikes() -> dict[str, str]:
    table = dict(_SHAPES)
    for script in ("cyrillic", "greek"):
        for latin, own in BACK[script].items():
            if latin in _SHAPES and (script == "cyrillic" or own in _SHAPES[latin]):
                table[own] = latin + _SHAPES[latin].replace(own, "")
    for pair in _KANA.split():
        table |= {pair[0]: pair[1], pair[1]: pair[0]}
    for code in range(
        0x2F00, 0x2FD6
    ):  # Kangxi radicals: drawn as the character that they stand for
        table.setdefault(unicodedata.normalize("NFKC", chr(code)), chr(code))
    return table


LOOK_ALIKES: Final[dict[str, str]] = _look_alikes()
"""Letter -> letters that a reader cannot tell from it. Arabic, Thai, Hangul, ... have none."""

SIGNS: Final[dict[str, str]] = dict(
    zip("abceghilostuxzабвеостхчі", "@8(€9#!|*$+µ×2@68€*(+×4!", strict=True)
)
"""Letter -> sign that is read as it; training views write 0, 1, 3, 4, 5 and 7 instead."""

KEYBOARD: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm", "йцукенгшщзх", "фывапролджэ", "ячсмитьбю")
"""Rows of keys, so that a finger that slips hits a neighbour."""

_CYRILLIC: Final = dict(
    zip(
        "а б в г д е ё ж з и й к л м н о п р с т у ф х ц ч ш щ ъ ы ь э ю я і ї є ґ".split(),
        "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch ' y ' e yu ya i yi ye g".split(),
        strict=True,
    )
)
_GREEK: Final = dict(
    zip(
        "α β γ δ ε ζ η θ ι κ λ μ ν ξ ο π ρ σ ς τ υ φ χ ψ ω ά έ ή ί ό ύ ώ".split(),
        "a v g d e z i th i k l m n x o p r s s t y f ch ps o a e i i o y o".split(),
        strict=True,
    )
)
_LATIN: Final = dict(
    zip(
        "sh ch zh ya yu a b c d e f g h i j k l m n o p q r s t u v w x y z ä ö ü ß é è ñ ó í á ú".split(),
        "ш ч ж я ю а б к д е ф г х и ж к л м н о п к р с т у в в кс й з э ё ю сс е е нь о и а у".split(),
        strict=True,
    )
)
SOUNDS: Final[tuple[dict[str, str], ...]] = (_CYRILLIC, _GREEK, _LATIN)
"""Letters of one script -> what spells the same sound in another; a word is written with one of the tables."""

PADDING: Final[dict[str, tuple[str, ...]]] = {
    "LATIN": (
        "The parcel is wrapped with care and comes with tracking.",
        "Our family has been selling garden furniture and books since spring.",
        "Ask for more photos, we answer on the same evening.",
        "Light marks of wear on the back, cleaned and dry.",
        "Ideal for a child's room, a kitchen or a small balcony.",
        "Sizes were measured by hand and may differ a little.",
        "Thank you for looking at our little shop.",
    ),
    "CYRILLIC": (
        "Посылка упакована бережно, есть номер отправления.",
        "Наша семья продаёт садовую мебель и книги с весны.",
        "Пришлём больше снимков в тот же вечер.",
        "Небольшие следы износа сзади, чистое и сухое.",
        "Подойдёт для детской, кухни или балкона.",
        "Размеры сняты вручную и могут немного отличаться.",
        "Спасибо, что заглянули в нашу лавку.",
    ),
}
"""Honest sentences by script; what has none is padded in Latin script."""
