"""Literals with signs between their words, and letter by letter: found where they lie, never inside other words."""

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.clock import SimulatedClock
from moderation.disguised_words import part, unpart
from moderation.expressions import Span
from moderation.pattern_file import Pattern, PatternFile
from moderation.patterns import MAX_FIELD_CHARS, Patterns

CLOCK = SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC))


def found(title: str, *literals: str, **fields: Any) -> list[str]:
    """Return the stretches of a title in which any of some literals is found."""
    patterns = tuple(
        Pattern(
            id=f"p{number}",
            policy="weapons",
            kind="literal",
            text=text,
            note="for tests",
            author="ana",
            **fields,
        )
        for number, text in enumerate(literals)
    )
    file = PatternFile(version="1", digest="0" * 64, patterns=patterns)
    hits = Patterns(file, CLOCK).match(title, "").hits
    return [title[slice(*hit.span)] for hit in hits]


@pytest.mark.parametrize(
    "words",
    [
        "hollow-point",
        "hollow_point",
        "HOLLOW__Point",
        "hollow - point",
        "hollow | point",
        "hollow|point",
        "hollow/point",
        "hollow.point",
        "hollow\u2013point",
        "h0llow_p0int",
        "hоllow-pоint",
        "hol\u200blow-point",
        "h o l l o w  p o i n t",
        "h o l l o w p o i n t",
        "h.o.l.l.o.w p.o.i.n.t",
        "h_o_l_l_o_w_p_o_i_n_t",
        "H 0 L L O W   P O I N T",
    ],
)
def test_words_kept_apart_are_found_where_they_lie(words: str) -> None:
    for before, after in (("", ""), ("new box of ", ", sealed"), ("бокс: ", " 枪")):
        assert found(f"{before}{words}{after}", "hollow point") == [words]


@pytest.mark.parametrize(
    ("title", "stretch"),
    [
        ("_hollow point_", "hollow point"),
        ("hollow point_", "hollow point"),
        ("my_hollow_point_1.jpg", "hollow_point"),
        ("h o l l o w  p o i n t  a m m o", "h o l l o w  p o i n t"),
        ("h o l l o w p o i n t\na m m o", "h o l l o w p o i n t"),
        ("hollow point", "hollow point"),
    ],
)
def test_edges_of_words_are_seen(title: str, stretch: str) -> None:
    assert found(title, "hollow point") == [stretch]


@pytest.mark.parametrize(
    "title",
    [
        "hollow pointers",
        "hollow-pointers",
        "x_hollow_pointed",
        "shallow-hollows point",
        "hollowpoint",
        "the tube is hollow. Point it up",
        "hollow, point",
        "h o l l o w p o i n t e r s",
        "h-o-l-l-o-w-p-o-i-n-t-e-r-s",
        "u.s.a and hollowpoint",
    ],
)
def test_other_words_are_not_found(title: str) -> None:
    assert found(title, "hollow point") == []


@pytest.mark.parametrize(
    ("literal", "title"),
    [
        ("pistol", "epistolary"),
        ("pistol", "e p i s t o l a r y"),
        ("the rapist", "a therapist of the U.S.A."),
        ("no id", "n.o.i.d.s"),
        ("9 11", "9-11 and 9/11"),
        ("__init__", "init and _init_"),
        ("c++", "c - d, a_c_e"),
    ],
)
def test_parting_makes_no_word_of_another(literal: str, title: str) -> None:
    assert found(title, literal) == []


def test_literals_with_signs_are_found_without_and_with_others() -> None:
    assert found("t shirt, t-shirt and t_shirt", "t-shirt") == ["t shirt", "t-shirt", "t_shirt"]
    assert found("80% lower, 80%-lower", "80% lower") == ["80% lower"]
    assert found("my_pistol_case", "pistol") == ["pistol"]


def test_a_literal_of_the_text_as_it_came_has_no_disguise() -> None:
    assert found("hollow-point, hollow_point", "hollow point", reading="original") == []


def test_hits_in_words_are_found_where_asked() -> None:
    assert found("hollow-pointers", "hollow point", word_boundaries=False) == ["hollow-point"]


def test_a_pattern_is_told_once_where_a_plain_reading_shows_it() -> None:
    assert found("pistol, PISTOL and hollow-point", "pistol", "hollow point") == [
        "pistol",
        "PISTOL",
        "hollow-point",
    ]


@given(text=st.text(alphabet="ab1 _-|./\u2013枪é", max_size=60))
@settings(max_examples=300, deadline=None)
def test_every_place_of_a_parted_text_is_one_of_the_text(text: str) -> None:
    parted = part(text)
    spans = [Span(place, place + 1) for place, one in enumerate(parted) if one != " "]
    placed = unpart(text, spans)
    assert [text[slice(*one)] for one in placed] == [parted[slice(*one)] for one in spans]
    assert placed == sorted(set(placed))


@given(text=st.text(alphabet="hpx _-|.\n", max_size=80), literal=st.sampled_from(["h p", "hp x"]))
@settings(max_examples=300, deadline=None)
def test_stretches_hold_the_letters_of_the_literal(text: str, literal: str) -> None:
    for stretch in found(f"z {text} z", literal):
        letters = [one for one in stretch if one.isalpha()]
        assert "".join(letters) == literal.replace(" ", "")


@pytest.mark.parametrize(
    "unit",
    ["hollow-point ", "h o l l o w  p o i n t  ", "a  ", "a-", "-_", "a -- ", "_", "h_", " -"],
)
def test_long_disguises_take_linear_time(unit: str) -> None:
    seconds = []
    for num in (MAX_FIELD_CHARS // 4, MAX_FIELD_CHARS):
        begin = time.process_time()
        found((unit * num)[:num], "hollow point", "hollow", "a a", "h h")
        seconds.append(time.process_time() - begin)
    # Four times the text; quadratic time would be sixteen times as long.
    assert seconds[1] < 9 * seconds[0] + 0.5
