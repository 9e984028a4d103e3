"""Attacked text reads the same to a person, and is not what training views write."""

import re
import unicodedata

import numpy as np
import pytest
from confusable_homoglyphs import confusables

from moderation import augment
from moderation.attacks.alphabets import LOOK_ALIKES, SIGNS
from moderation.attacks.registry import GATE, SEVERITIES, STRONG, Subject, apply
from moderation.attacks.text import HIDDEN, SEPARATORS, transliterated
from moderation.augment import text_view
from moderation.listing import MAX_DESCRIPTION_CHARS
from tests.attacked import TEXT_ATTACKS, subject

KEY = b"s-17"


def _attacked(name: str, found: Subject, severity: float = GATE) -> Subject:
    changed = apply(name, found, severity=severity, key=KEY)
    assert changed is not None
    return changed


def _look_the_same(one: str, other: str) -> bool:
    """Return whether Unicode calls two characters confusable, or one a form of the other (UTS #39, UAX #15)."""
    known = confusables.is_confusable(one, greedy=True) or []
    shapes = {homoglyph["c"] for found in known for homoglyph in found["homoglyphs"]}
    forms = [unicodedata.normalize("NFKC", letter) for letter in (one, other)]
    return other in shapes or forms[0] == forms[1]


def _distance(one: str, other: str) -> float:
    """Return the edit distance as a share of the longer text."""
    costs = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        before, costs[0] = costs[0], row
        for column, against in enumerate(other, start=1):
            before, costs[column] = (
                costs[column],
                min(costs[column] + 1, costs[column - 1] + 1, before + (letter != against)),
            )
    return costs[-1] / max(len(one), len(other), 1)


def test_every_look_alike_is_confusable() -> None:
    strangers = [
        (letter, other)
        for letter, others in LOOK_ALIKES.items()
        for other in others
        if not _look_the_same(letter, other)
        # Both are confusable with one Latin letter.
        and not any(
            _look_the_same(letter, latin) and _look_the_same(other, latin)
            for latin in "abcdefghijlnopqrsuvwxyzABCDEFGHJKLMNOPRSTUVWXYZ"
        )
    ]
    assert strangers == []


@pytest.mark.parametrize("severity", SEVERITIES)
def test_homoglyphs_look_the_same(severity: float) -> None:
    found = subject()
    changed = _attacked("homoglyph", found, severity)
    for before, after in zip(found.description, changed.description, strict=True):
        assert before == after or after in LOOK_ALIKES[before]


def test_signs_are_read_as_their_letter() -> None:
    found = subject()
    changed = _attacked("leet", found, STRONG)
    latin = [sign for letter, sign in SIGNS.items() if letter.isascii()]
    assert len(set(latin)) == len(latin)
    for before, after in zip(found.title, changed.title, strict=True):
        assert before == after or SIGNS[before.lower()] == after
    assert _distance(found.title, changed.title) <= 0.5


def test_hidden_characters_draw_nothing() -> None:
    found = subject()
    changed = _attacked("zero_width", found, STRONG)
    assert {unicodedata.category(mark) for mark in HIDDEN} == {"Cf"}
    assert changed.description.translate(dict.fromkeys(map(ord, HIDDEN))) == found.description


def test_separators_leave_the_letters() -> None:
    found = subject()
    changed = _attacked("separators", found, STRONG)
    assert re.sub(f"[{re.escape(SEPARATORS)}]", "", changed.description) == found.description


def test_spacing_leaves_the_letters() -> None:
    found = subject()
    changed = _attacked("spacing", found, STRONG)
    assert "".join(changed.description.split()) == "".join(found.description.split())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_typos_stay_few(severity: float) -> None:
    found = subject()
    changed = _attacked("typos", found, severity)
    assert 0 < _distance(found.description, changed.description) <= 0.25


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("Пистолет", "Pistolet"),
        ("щука", "shchuka"),
        ("shotgun", "шотгун"),
        ("Messer", "Мессер"),
        ("größe,", "грёссе,"),
        ("πιστόλι", "pistoli"),
        ("手枪", "手枪"),
        ("glock19", "глокк19"),
        ("mixedслово", "mixedслово"),
        ("1:1", "1:1"),
        ("İ", "İ"),
    ],
)
def test_word_keeps_its_sound(word: str, other: str) -> None:
    assert transliterated(word) == other


def test_padding_leaves_the_text_whole() -> None:
    found = subject()
    changed = _attacked("benign_padding", found)
    before, _, behind = changed.description.partition(found.description)
    assert min(len(before), len(behind)) > 50
    assert changed.title == found.title
    own, russian = Subject("lamp", ""), Subject("Продам пистолет", "")
    assert "Selling" not in _attacked("benign_padding", own).description
    assert "Посылка" in _attacked("benign_padding", russian, STRONG).description


def test_padding_fits_when_the_text_is_long() -> None:
    long = Subject("", "pistol. " * 2_400)
    assert len(long.description) < len(_attacked("benign_padding", long).description)
    assert len(_attacked("benign_padding", long).description) <= MAX_DESCRIPTION_CHARS


def test_attacks_use_other_letters_than_training_views() -> None:
    for table, ours in ((augment._LOOK_ALIKE, LOOK_ALIKES), (augment._LEET, SIGNS)):
        assert not [letter for letter, other in table.items() if other in ours.get(letter, "")]
    spelt = augment._spell_out("pistol", np.random.default_rng(1))
    assert not set(spelt) & set(SEPARATORS)


@pytest.mark.parametrize("name", TEXT_ATTACKS)
def test_training_views_never_write_what_attacks_do(name: str) -> None:
    found = subject()
    changed = _attacked(name, found)
    words = set((changed.title + " " + changed.description).split())
    words -= set((found.title + " " + found.description).split())
    viewed: set[str] = set()
    for view in range(1, 400):
        viewed.update(" ".join(text_view(found.title, found.description, view, seed=3)).split())
    shared = words & viewed
    assert len(shared) <= 0.1 * len(words), shared
