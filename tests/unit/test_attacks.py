"""The attacks: seeded, within the limits of a listing, never the identity, and read the same by a person."""

import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moderation.attacks.registry import (
    ATTACKS,
    FAMILIES,
    GATE,
    MILD,
    SEVERITIES,
    STRONG,
    Subject,
    apply,
    attack,
)
from moderation.listing import MAX_DESCRIPTION_CHARS, MAX_TITLE_CHARS
from tests.attacked import IMAGE_ATTACKS, TEXT_ATTACKS, WORDS, photo, subject

KEY = b"s-17"
LANGUAGES = {
    "en": (
        "Selling real Glock 19 pistol, with ammo",
        "Bought last year, used twice. DM me on whatsapp.",
    ),
    "de": ("Pistole für Jäger", "Schöne Größe, schießt gut."),
    "ru": ("Продам пистолет Макаров", "Куплено в прошлом году, щит и ёлка."),
    "el": ("Πωλείται πιστόλι", "Άριστη κατάσταση, ελάχιστη χρήση."),
    "ar": ("مسدس للبيع", "مسدس جديد مع ذخيرة"),
    "hi": ("बंदूक बिक्री के लिए", "नया है और अच्छा है"),
    "th": ("ปืนพกขาย", "ของใหม่ ราคาดี"),
    "zh": ("出售手枪和子弹", "全新手枪，口径九毫米。"),
    "ja": ("ロボットとカメラ", "へやにニつあります。"),
    "ko": ("권총 팝니다", "새 제품입니다"),
}
SCRIPTLESS = {
    "homoglyph": "ar hi th ko",
    "leet": "el ar hi th zh ja ko",
    "typos": "el ar hi th zh ja ko",
}
SCRIPTLESS["transliteration"] = "ar hi th zh ja ko"


@pytest.fixture
def extra() -> Iterator[str]:
    """An attack that is registered for one test alone."""

    @attack("shout", family="text")
    def shout(subject: Subject, severity: float, rng: np.random.Generator) -> Subject:
        """Return the listing in capitals."""
        return replace(subject, title=subject.title.upper())

    yield "shout"
    del ATTACKS["shout"]


def test_registry_holds_every_attack_of_the_suite() -> None:
    assert set(ATTACKS) == {*TEXT_ATTACKS, *IMAGE_ATTACKS, "words_into_image", "neighbour_text"}
    assert {one.family for one in ATTACKS.values()} == set(FAMILIES)
    assert all({MILD, GATE, STRONG} <= set(one.severities) for one in ATTACKS.values())


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("severity", SEVERITIES)
def test_attack_changes_and_repeats(name: str, severity: float) -> None:
    found = subject()
    changed, again, other = (
        apply(name, found, severity=severity, key=key) for key in (KEY, KEY, b"another")
    )
    assert changed is not None
    assert again == changed
    assert other is not None
    assert changed != found
    assert found == subject()


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_stronger_when_severity_rises(name: str) -> None:
    mild, strong = (apply(name, subject(), severity=s, key=KEY) for s in (MILD, STRONG))
    assert mild != strong


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_does_not_apply_when_nothing_is_there(name: str) -> None:
    assert apply(name, Subject("", ""), severity=GATE, key=KEY) is None


@pytest.mark.parametrize("name", IMAGE_ATTACKS)
def test_image_attack_leaves_the_words_alone(name: str) -> None:
    found = subject()
    changed = apply(name, found, severity=GATE, key=KEY)
    assert changed is not None
    assert (changed.title, changed.description) == (found.title, found.description)
    assert apply(name, replace(found, images=()), severity=GATE, key=KEY) is None


@pytest.mark.parametrize("name", ATTACKS)
def test_images_can_be_attacked_one_by_one(name: str) -> None:
    found = subject()
    blank = Image.new("RGB", (64, 64))
    whole = apply(name, found, severity=GATE, key=KEY)
    assert whole is not None
    for place in range(len(found.images)):
        alone = [found.images[at] if at == place else blank for at in range(len(found.images))]
        changed = apply(name, replace(found, images=tuple(alone)), severity=GATE, key=KEY)
        assert changed is not None
        assert changed.images[place] == whole.images[place]
        assert (changed.title, changed.description) == (whole.title, whole.description)


@pytest.mark.parametrize("name", TEXT_ATTACKS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_text_attack_keeps_every_language(name: str, language: str) -> None:
    found = Subject(*LANGUAGES[language], words=WORDS)
    changed = apply(name, found, severity=STRONG, key=KEY)
    if language in SCRIPTLESS.get(name, "").split():
        assert changed is None
        return
    assert changed is not None
    marks = [c for c in found.title + found.description if unicodedata.combining(c)]
    kept = unicodedata.normalize("NFC", changed.title + changed.description)
    assert [c for c in kept if unicodedata.combining(c)] == marks
    assert not re.search(r"[^\w\s][\u0300-\u036f]", kept)


@pytest.mark.parametrize("name", [*TEXT_ATTACKS, "words_into_image", "neighbour_text"])
@given(
    title=st.text(max_size=MAX_TITLE_CHARS),
    description=st.text(max_size=400),
    scale=st.integers(1, 50),
)
@settings(max_examples=15, deadline=None)
def test_attacked_listing_can_be_submitted(
    name: str, title: str, description: str, scale: int
) -> None:
    described = (description * scale)[:MAX_DESCRIPTION_CHARS]
    images = (Image.new("RGB", (20, 10)),)
    found = Subject(title, described, images, WORDS, Subject("lamp", "Oak. " * 3_999))
    changed = apply(name, found, severity=STRONG, key=KEY)
    if changed is not None:
        assert len(changed.title) <= MAX_TITLE_CHARS
        assert len(changed.description) <= MAX_DESCRIPTION_CHARS
        assert "\x00" not in set(changed.title + changed.description) - set(title + described)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3000, 2), (2400, 1800)])
def test_attack_is_quick_on_the_largest_listing(name: str, size: tuple[int, int]) -> None:
    text = ("pistol whatsapp " * 1_250)[:MAX_DESCRIPTION_CHARS]
    found = Subject(text[:MAX_TITLE_CHARS], text, (Image.new("RGB", size),), WORDS)
    begin = time.process_time()
    apply(name, found, severity=STRONG, key=KEY)
    assert time.process_time() - begin < 2


def test_full_listing_is_left_alone_when_nothing_fits() -> None:
    full = Subject("w" * MAX_TITLE_CHARS, "w" * MAX_DESCRIPTION_CHARS)
    for name in ("zero_width", "separators", "benign_padding"):
        assert apply(name, full, severity=GATE, key=KEY) is None


def test_telling_words_are_disguised_first() -> None:
    plain = " ".join(f"word{n}x" for n in range(30))
    found = Subject(f"{plain} pistol", "", words=WORDS)
    for name in ("homoglyph", "zero_width", "separators"):
        changed = apply(name, found, severity=0.05, key=KEY)
        assert changed is not None
        assert "pistol" not in changed.title


def test_new_attack_is_one_function(extra: str) -> None:
    changed = apply(extra, Subject("lamp", ""), severity=GATE, key=KEY)
    assert changed is not None
    assert changed.title == "LAMP"
    assert apply(extra, Subject("LAMP", ""), severity=GATE, key=KEY) is None


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"name": "leet"}, "two attacks are called leet"),
        ({"family": "odour"}, "none of"),
        ({"severities": (2.0,)}, "no severity 1"),
    ],
)
def test_attack_is_refused_when_ill_defined(changes: dict[str, object], wrong: str) -> None:
    fields: dict[str, object] = {
        "name": "other",
        "family": "text",
        "severities": SEVERITIES,
    } | changes
    with pytest.raises(ValueError, match=wrong):
        attack(str(fields.pop("name")), **fields)(lambda s, _v, _r: s)  # type: ignore[arg-type]
    assert "other" not in ATTACKS


@pytest.mark.parametrize("severity", [0.0, -1.0, float("inf"), float("nan")])
def test_attack_is_refused_when_severity_is_none(severity: float) -> None:
    with pytest.raises(ValueError, match="positive and finite"):
        apply("leet", subject(), severity=severity, key=KEY)


def test_attack_is_refused_when_it_breaks_a_limit(extra: str) -> None:
    long = Subject("ß" * MAX_TITLE_CHARS, "")  # in capitals twice as long
    with pytest.raises(ValueError, match="breaks a listing's limits"):
        apply(extra, long, severity=GATE, key=KEY)


def test_photo_of_tests_has_detail() -> None:
    assert np.asarray(photo()).std() > 20
