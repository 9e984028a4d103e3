"""Patterns in any disguise, at their place in the text as it came; bounded whatever the text."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moderation.clock import SimulatedClock
from moderation.expressions import Span, has_edge
from moderation.pattern_file import Pattern, PatternFile, lower
from moderation.patterns import MAX_FIELD_CHARS, MAX_HITS, Patterns, PatternSignal
from moderation.text import normalise
from moderation.text_spans import embed, key_of

START = datetime(2026, 11, 22, tzinfo=UTC)
DISGUISED = ("pistol", "silencer", "gift card", "replica", "оружие")


def pattern(pattern_id: str, text: str, **fields: Any) -> Pattern:
    given_fields = {"policy": "weapons", "kind": "literal", "note": "for tests", "author": "ana"}
    return Pattern(id=pattern_id, text=text, **(given_fields | fields))


def matched(
    patterns: list[Pattern], title: str, description: str = "", clock: SimulatedClock | None = None
) -> PatternSignal:
    file = PatternFile(version="1", digest="0" * 64, patterns=tuple(patterns))
    return Patterns(file, clock or SimulatedClock(START)).match(title, description)


def places(patterns: list[Pattern], title: str) -> set[tuple[str, str]]:
    hits = matched(patterns, title).hits
    return {(hit.pattern_id, title[hit.span.begin : hit.span.end]) for hit in hits}


@pytest.mark.parametrize(
    ("literal", "title", "found"),
    [
        ("pistol", "a PISTOL for sale", "PISTOL"),
        ("pistol", "a p1st0l for sale", "p1st0l"),
        ("pistol", "a p\u200bis\u00adtol for sale", "p\u200bis\u00adtol"),
        ("pistol", "a pіstоl for sale", "pіstоl"),
        ("pistol", "a p.i.s.t.o.l for sale", "p.i.s.t.o.l"),
        ("pistol", "a ｐｉｓｔｏｌ for sale", "ｐｉｓｔｏｌ"),
        ("pistol", "a p\u0336i\u0336s\u0336t\u0336o\u0336l\u0336 for sale", None),
        ("pistol", "a ⓟⓘⓢⓣⓞⓛ for sale", "ⓟⓘⓢⓣⓞⓛ"),
        ("pistol", "a píšťôl for sale", "píšťôl"),
        ("p1stol", "a p!stol for sale", "p!stol"),
        ("straße", "in der STRASSE dort", "STRASSE"),
        ("gift card", "no gift\u3000\u3000card here", "gift\u3000\u3000card"),
        ("枪支", "买 枪.支 吗", "枪.支"),
        ("ＡＢ", "x ab y", "ab"),
    ],
)
def test_disguised_literals_are_found_where_they_lie(
    literal: str, title: str, found: str | None
) -> None:
    if found is None:
        found = title[2 : title.rindex(" for")]
    assert places([pattern("one", literal)], title) == {("one", found)}


def spread(draw: st.DrawFn, word: str) -> str:
    """Return a word with something hidden, or drawn over it, between its letters."""
    between = st.sampled_from(["", "", "\u200b", "\u00ad", "\u2060", "\u0336"])
    return "".join(letter + draw(between) for letter in word[:-1]) + word[-1]


@st.composite
def disguised(draw: st.DrawFn) -> tuple[str, str]:
    """Return a literal and one of its disguises."""
    literal = draw(st.sampled_from(DISGUISED))
    swaps = {"i": "іi", "o": "оo", "e": "еe", "a": "аa", "p": "рp", "c": "сc", "s": "ѕs"}
    if literal.isascii():
        word = "".join(draw(st.sampled_from(swaps.get(letter, letter))) for letter in literal)
    else:
        word = literal
    return literal, spread(draw, draw(st.sampled_from([word, word.upper()])))


@given(pair=disguised(), before=st.sampled_from(["", "buy my ", "枪", "see: "]), after=st.text())
@settings(max_examples=200, deadline=None)
def test_hidden_literals_are_found(pair: tuple[str, str], before: str, after: str) -> None:
    literal, word = pair
    # A whole word of look-alikes is told from a genuine one by the Latin around it.
    title = f"{before or 'new and '}{word} in the best quality, {after}"[:300]
    found = [hit.span for hit in matched([pattern("one", literal)], title).hits]
    begin = title.index(word)
    if has_edge(title, begin + len(word)) and has_edge(title, begin):
        assert any(one.begin <= begin and one.end >= begin + len(word) for one in found)
    assert all(title[one.begin : one.end] for one in found)


ANY = [
    *(pattern(f"l{n}", word) for n, word in enumerate(DISGUISED)),
    pattern("inside", "a", word_boundaries=False),
    pattern("raw", "\u0661", reading="original"),
    pattern("words", r"\pL{2}\d?", kind="regex"),
    pattern("marks", r"\pM|[\x{e31}]|[^a-z]", kind="regex", word_boundaries=False),
]


@given(title=st.text(max_size=300), description=st.text(alphabet=st.characters(), max_size=500))
@settings(max_examples=200, deadline=None)
@example("\ud800a\udfff", "a\ud800")
@example("\u0301", "กั\u0301a")
@example("ﷺ", "½")
def test_any_text_is_matched_within_itself(title: str, description: str) -> None:
    signal = matched(ANY, title, description)
    assert signal.status == ("ok" if title or description else "missing")
    for hit in signal.hits:
        text = title if hit.field == "title" else description
        assert 0 <= hit.span.begin < hit.span.end <= len(text)


@given(text=st.text(max_size=60) | st.text(alphabet="gun 01.|аеоﷺßıİ́\u200b🇬ᏟᎬΣς", max_size=60))
@settings(max_examples=300, deadline=None)
def test_every_reading_embeds_in_the_original(text: str) -> None:
    shown = normalise(text)
    for reading in (shown.normalised, shown.folded):
        assert embed(key_of(text), key_of(reading)) is not None


def test_what_is_no_reading_does_not_embed() -> None:
    assert embed("abc", "cb") is None


@given(text=st.text(alphabet="ab .", max_size=40), bounded=st.booleans())
@settings(max_examples=150, deadline=None)
def test_literals_equal_a_naive_search(text: str, bounded: bool) -> None:
    words = ("a", "ab", "b a", "aba")
    patterns = [
        pattern(f"p{n}", word, reading="original", word_boundaries=bounded)
        for n, word in enumerate(words)
    ]
    wanted = {
        (f"p{n}", Span(begin, begin + len(word)))
        for n, word in enumerate(words)
        for begin in range(len(text))
        if text.startswith(word, begin)
        and (not bounded or (has_edge(text, begin) and has_edge(text, begin + len(word))))
    }
    assert {(hit.pattern_id, hit.span) for hit in matched(patterns, text).hits} == wanted


def test_overlapping_hits_are_all_told() -> None:
    words = ["gift", "gift card", "card", "ift c"]
    patterns = [pattern(f"p{n}", word, word_boundaries=False) for n, word in enumerate(words)]
    patterns.append(pattern("again", "gift", policy="spam", word_boundaries=False))
    patterns.append(pattern("regex", "f. .a", kind="regex", word_boundaries=False))
    found = places(patterns, "Gift Card")
    assert found == {
        ("p0", "Gift"),
        ("p1", "Gift Card"),
        ("p2", "Card"),
        ("p3", "ift C"),
        ("again", "Gift"),
        ("regex", "ft Ca"),
    }


@pytest.mark.parametrize(
    ("word", "title", "is_found"),
    [
        ("gun", "begun", False),
        ("gun", "gun!", True),
        ("пистолет", "пистолеты", False),
        ("пистолет", "«пистолет»", True),
        ("枪", "买枪吗", True),
        ("ปืน", "ขายปืนสั้น", True),
        ("총", "총을", False),
        ("क", "कि", False),
        ("سلاح", "بيع سلاح هنا", True),
        ("سلاح", "السلاح", False),
    ],
)
@pytest.mark.parametrize("kind", ["literal", "regex"])
def test_words_end_where_their_script_says(
    word: str, title: str, is_found: bool, kind: str
) -> None:
    assert bool(matched([pattern("one", word, kind=kind)], title).hits) == is_found
    free = pattern("one", word, kind=kind, word_boundaries=False, reading="original")
    assert matched([free], title).hits


def test_each_reading_sees_its_own_text() -> None:
    patterns = [
        pattern("raw", "p1stol", reading="original"),
        pattern("meant", "pistol", reading="normalised"),
        pattern("both", "p[1i]stol", kind="regex"),
        pattern("accents", "café", reading="normalised"),
    ]
    found = {
        (hit.pattern_id, hit.reading) for hit in matched(patterns, "P1STOL CAFE\u0301 café").hits
    }
    assert found == {
        ("raw", "original"),
        ("meant", "folded"),
        ("both", "original"),
        ("accents", "normalised"),
        ("accents", "folded"),
    } - {("accents", "folded")}


def test_hits_carry_policy_tier_and_field() -> None:
    patterns = [pattern("one", "gun", policy="spam", tier="tag")]
    [first, second] = matched(patterns, "gun", "a gun").hits
    assert (first.policy, first.tier, first.field, first.span) == ("spam", "tag", "title", (0, 3))
    assert (second.field, second.span) == ("description", (2, 5))


def test_disabled_and_expired_patterns_do_not_match() -> None:
    clock = SimulatedClock(START)
    patterns = [
        pattern("off", "gun", enabled=False),
        pattern("gone", "gun", expires=START.date()),
        pattern("soon", "gun", expires=START.date() + timedelta(days=1)),
        pattern("soon-too", "g.n", kind="regex", expires=START.date() + timedelta(days=1)),
    ]
    file = PatternFile(version="1", digest="", patterns=tuple(patterns))
    matcher = Patterns(file, clock)
    assert [hit.pattern_id for hit in matcher.match("gun", "").hits] == ["soon", "soon-too"]
    clock.advance(24 * 3600 - 1)
    assert len(matcher.match("gun", "").hits) == 2
    clock.advance(1)
    assert matcher.match("gun", "").hits == ()


def test_missing_and_too_long_are_no_answer() -> None:
    patterns = [pattern("one", "gun")]
    assert (matched(patterns, "").status, matched(patterns, "").reason) == ("missing", "no_text")
    long = matched(patterns, "gun", "x" * (MAX_FIELD_CHARS + 1))
    assert (long.status, long.reason, long.hits) == ("error", "too_long", ())
    assert matched(patterns, " ").status == "ok"


def test_no_patterns_have_no_hits() -> None:
    assert (matched([], "gun").status, matched([], "gun").hits) == ("ok", ())


def test_many_hits_are_cut_by_pattern_and_told() -> None:
    patterns = [
        pattern("many", "gun", reading="original"),
        pattern("regex", "gu.", kind="regex", reading="original"),
        pattern("one", "pistol", reading="original"),
    ]
    signal = matched(patterns, "", "gun " * (MAX_HITS + 1) + "pistol")
    counts = [hit.pattern_id for hit in signal.hits]
    assert (counts.count("many"), counts.count("regex"), counts.count("one")) == (32, 32, 1)
    assert signal.is_cut
    assert not matched(patterns, "", "gun " * MAX_HITS + "pistol").is_cut


@pytest.mark.parametrize(
    "text",
    [
        "a" * MAX_FIELD_CHARS,
        "a\u0301" * (MAX_FIELD_CHARS // 2),
        "а b" * (MAX_FIELD_CHARS // 3),
        "p.1.s.t.0.l " * (MAX_FIELD_CHARS // 12),
        "ﷺ" * MAX_FIELD_CHARS,
        "枪" * MAX_FIELD_CHARS,
    ],
    ids=["one letter", "marks", "look-alikes", "leet", "unfolding", "han"],
)
def test_long_hostile_text_is_bounded(text: str) -> None:
    patterns = [
        *(pattern(f"a{n}", "a" * n, word_boundaries=False) for n in range(1, 40)),
        pattern("pistol", "pistol"),
        pattern("backtracks", "(?:a+)+b", kind="regex", word_boundaries=False),
        pattern("states", "a(?:a|b){200}c", kind="regex"),
        pattern("han", "枪", word_boundaries=False),
    ]
    begin = time.process_time()
    signal = matched(patterns, "", text)
    # A backtracking engine would not end; the bound leaves room for a slow machine.
    assert time.process_time() - begin < 30
    assert signal.status == "ok"
    assert len(signal.hits) <= MAX_HITS * 3 * len(patterns)


def test_a_flood_of_literals_is_told() -> None:
    patterns = [pattern(f"a{n}", "a" * n, word_boundaries=False) for n in range(1, 12)]
    assert matched([*patterns, pattern("gun", "gun")], "", "a" * 20_000 + " gun").is_cut


def test_lower_keeps_every_place() -> None:
    everything = "".join(map(chr, range(0x11_0000)))
    assert len(lower(everything)) == len(everything)
