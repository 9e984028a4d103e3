"""A pattern file says everything or is refused with the line and the pattern at fault."""

import pytest

from moderation.errors import PatternError
from moderation.expressions import Expression, has_edge
from moderation.pattern_file import MAX_EXPRESSIONS, PatternFile, parse_patterns

GOOD = """\
version: 2026-11-22
patterns:
  - {id: one, policy: spam, kind: literal, text: gift card, note: asked for, author: ana}
  - {id: two, policy: spam, kind: regex, text: 'a+b', note: asked for, author: ana}
"""


def parsed(text: str) -> PatternFile:
    return parse_patterns(text.encode(), "patterns.yaml", ["spam", "weapons"])


def test_defaults_are_cautious() -> None:
    [one, _] = parsed(GOOD).patterns
    assert (one.reading, one.word_boundaries, one.enabled, one.tier) == (
        "both",
        True,
        True,
        "review",
    )


def test_the_digest_is_that_of_the_bytes() -> None:
    assert parsed(GOOD).digest != parsed(GOOD + "\n").digest
    assert parsed(GOOD).version == "2026-11-22"


@pytest.mark.parametrize(
    ("old", "wrong", "told"),
    [
        ("'a+b'", "'a(b'", "patterns.yaml:4: pattern two: text: missing [)]"),
        ("'a+b'", "'a(?=b)'", "patterns.yaml:4: pattern two: text: invalid perl operator"),
        ("'a+b'", r"'(a)\1'", "patterns.yaml:4: pattern two: text: invalid escape sequence"),
        ("'a+b'", "'(a{1000}){1000}'", "patterns.yaml:4: pattern two: text: invalid repetition"),
        ("'a+b'", r"'\pL{500}'", "patterns.yaml:4: pattern two: text: pattern too large"),
        ("'a+b'", r"'\pL{20}'", "patterns.yaml:4: pattern two: text: compiles to .* of 4000"),
        ("'a+b'", "'a*'", "patterns.yaml:4: pattern two: text: matches the empty text"),
        ("'a+b'", r"'\b'", "patterns.yaml:4: pattern two: text: matches the empty text"),
        ("'a+b'", r"'\C'", "patterns.yaml:4: pattern two: text: splits characters"),
        ("id: two", "id: one", "patterns.yaml:4: pattern one: id: pattern 1 has that id too"),
        ("id: two", "id: Two", "patterns.yaml:4: pattern Two: id: String should match"),
        ("text: gift card", "text: ''", "patterns.yaml:3: pattern one: text: .*at least 1"),
        ("text: gift card", "text: ' '", "patterns.yaml:3: pattern one: text: .*is empty once"),
        ("text: gift card", r'text: "\u200b"', "patterns.yaml:3: pattern one: text: .*is empty"),
        ("text: gift card", r'text: "\ud800"', "patterns.yaml"),
        ("text: gift card", "text: 1911", "patterns.yaml:3: pattern one: text: .*in quotes"),
        ("policy: spam, kind: r", "policy: toys, kind: r", "patterns.yaml:4: .*no policy toys"),
        ("author: ana}\n  -", "author: ana, tier: block}\n  -", "patterns.yaml:3: pattern one: t"),
        ("note: asked for, author: ana}\n  -", "author: ana}\n  -", "patterns.yaml:3: .*note"),
        ("author: ana}\n  -", "author: ana, id: x}\n  -", "patterns.yaml:3: .*is said twice"),
        ("author: ana}\n  -", "author: ana, on: both}\n  -", "patterns.yaml:3: pattern one"),
        ("author: ana}\n  -", "author: ana, expires: soon}\n  -", "patterns.yaml:3: .*expires"),
        ("version: 2026-11-22", "", "version"),
        ("patterns:", "patterns: x\nmore:", "patterns"),
        ("version:", "- version:", "cannot be read"),
    ],
)
def test_wrong_files_are_refused_by_line_and_pattern(old: str, wrong: str, told: str) -> None:
    with pytest.raises(PatternError, match=told):
        parsed(GOOD.replace(old, wrong, 1))


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(PatternError, match="pattern one: text.*; .*pattern two: text"):
        parsed(GOOD.replace("gift card", "''").replace("a+b", "a(b"))


def test_too_many_expressions_are_refused() -> None:
    more = "".join(
        f"  - {{id: n{n}, policy: spam, kind: regex, text: a{n}b, note: asked for, author: ana}}\n"
        for n in range(MAX_EXPRESSIONS)
    )
    with pytest.raises(PatternError, match=f"more than {MAX_EXPRESSIONS} expressions"):
        parsed(GOOD + more)


def test_a_list_is_refused() -> None:
    with pytest.raises(PatternError, match="mapping with version and patterns"):
        parsed("- 1")


@pytest.mark.parametrize(
    ("text", "place", "is_edge"),
    [
        ("ab", 1, False),
        ("a b", 1, True),
        ("a_", 1, False),
        ("a1", 1, False),
        ("да", 1, False),
        ("枪支", 1, True),
        ("a枪", 1, True),
        ("총을", 1, False),
        ("คก", 1, True),
        ("กั", 1, False),
        ("กัก", 2, True),
        ("कि", 1, False),
        ("е\u0301", 1, False),
        ("", 0, True),
    ],
)
def test_words_have_edges_in_every_script(text: str, place: int, is_edge: bool) -> None:
    assert has_edge(text, place) == is_edge


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("gun", "gun gun,gun", ["gun", "gun", "gun"]),
        ("gun", "guns begun gun_ gun1", []),
        ("пистолет", "пистолет, пистолеты", ["пистолет"]),
        ("枪支?", "买枪支枪", ["枪支", "枪"]),
        ("ปืน", "ขายปืนสั้น", ["ปืน"]),
        ("ก", "กั", []),
        ("क", "कि क", ["क"]),
        ("ÉTÉ", "été", ["été"]),
        ("(a)(b)", "ab", ["ab"]),
        ("a|ab", "ab", ["ab"]),
        ("^gun|pen$", "gun pen", ["gun", "pen"]),
    ],
)
def test_expressions_keep_to_words(expression: str, text: str, found: list[str]) -> None:
    data = text.encode()
    spans = Expression(expression, word_boundaries=True).find(data, 9)
    assert [data[begin:end].decode() for begin, end in spans] == found
