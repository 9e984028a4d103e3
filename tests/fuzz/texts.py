"""Texts: normalised once and for all, spans that point into the original, and patterns that never stall."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

from moderation.clock import SimulatedClock
from moderation.expressions import Expression, Span
from moderation.leetspeak import resolve, unleet_word
from moderation.pattern_file import lower, parse_patterns
from moderation.patterns import MAX_FIELD_CHARS, Patterns
from moderation.policy import load_policies
from moderation.spoofing import unspoof
from moderation.text import (
    MAX_DOCUMENT_CHARS,
    MAX_MODEL_CHARS,
    SIGNS,
    document,
    model_text,
    normalise,
)
from moderation.text_spans import embed, key_of, original_spans
from tests.fuzz.mutations import of_bytes, of_text, to_text
from tests.fuzz.target import Target

_EXPRESSIONS: Final = (
    r"a+b",
    r"(?:\.22|9 ?mm) ?(?:rounds|ammo)",
    r"\bgun\b|pen$",
    r"(?i)(x+x+)+y",
    r"[^\pL]{3,8}\d{2}",
    r"枪支?|ก",
    r"(a|b|ab)*c",
    r"(?s).{1,40}z",
    r"\x{1F1E6}|[[:alpha:]]-",
)


@cache
def words() -> list[bytes]:
    """Return texts in the languages of the simulated marketplace, and disguised ones."""
    folder = Path("marketplace/words")
    lines = [
        line.strip(' -"')
        for path in sorted(folder.glob("*.yaml"))
        for line in path.read_text("utf-8").splitlines()[10:200:9]
    ]
    disguised = (
        "g1ock p1st0l $ilencer g.u.n g u n si1encer 5il3ncer mp3player",
        "рistоl аррlе g\u200bu\u200cn 𝐠𝓾𝕟 🇬🇺🇳 Ⓖⓤⓝ ɢᴜɴ gunnnnn",
        "全新手机出售 新品のガンプラ 새 휴대폰 ขายมือถือใหม่ नया मोबाइल للبيع",
        "hollow point .22 ammo without authenticity card 80% lower " * 3,
    )
    return [line.encode() for line in (*lines, *disguised) if line]


def check_text(data: bytes) -> int:
    """Normalise a text twice, and place parts of each reading in the original."""
    raw = to_text(data)
    text = normalise(raw)
    assert text.original == raw
    assert normalise(text.normalised).normalised == text.normalised, "normalise is not idempotent"
    text.normalised.encode()
    text.folded.encode()
    assert text.normalised == " ".join(text.normalised.split())
    assert len(text.normalised) <= 18 * len(raw)
    assert len(text.folded) <= 18 * len(raw)
    assert list(text.signs) == list(SIGNS)
    assert all(0 <= value <= 1 for value in text.signs.values()), text.signs
    for reading in (text.normalised, text.folded):
        _check_spans(raw, reading)
    return len(raw)


def _check_spans(raw: str, reading: str) -> None:
    if not reading:
        return
    rng = random.Random(len(reading))
    places = sorted(rng.sample(range(len(reading) + 1), min(4, len(reading) + 1)))
    spans = [Span(a, b) for a, b in zip(places, places[1:], strict=False)]
    spans.append(Span(0, len(reading)))
    found = original_spans(raw, reading, spans)
    assert len(found) == len(spans)
    for span, place in zip(spans, found, strict=True):
        assert 0 <= place.begin < place.end <= len(raw), (span, place)
        inside = embed(key_of(raw[slice(*place)]), key_of(reading[slice(*span)]))
        assert inside is not None, "a span does not cover what it was read from"
    whole = found.pop()
    assert all(whole.begin <= place.begin and place.end <= whole.end for place in found)
    begins = [place.begin for place in found]
    assert begins == sorted(begins), "spans change their order"


def check_words(data: bytes) -> int:
    """Resolve look-alikes and leetspeak, and build what the models read."""
    raw = to_text(data)
    shown, num_folded = unspoof(raw)
    assert len(shown) == len(raw)
    assert 0 <= num_folded <= len(raw)
    assert num_folded or shown == raw
    for word in raw.split():
        assert len(unleet_word(word)) == len(word)
    resolved, counts = resolve(raw)
    assert len(resolved) <= len(raw)
    assert set(counts) == {"separators", "leet", "repeats"}
    assert min(counts.values()) >= 0
    read = document(raw[:400], raw)
    assert len(read.normalised) <= MAX_DOCUMENT_CHARS
    assert len(read.folded) <= MAX_DOCUMENT_CHARS
    assert all(0 <= value <= 1 for value in read.signs.values())
    assert len(model_text(raw[:400], raw)) <= MAX_MODEL_CHARS
    return len(raw)


@cache
def _patterns() -> Patterns:
    policies = load_policies(Path("policies/marketplace.yaml"))
    path = Path("policies/patterns.yaml")
    file = parse_patterns(path.read_bytes(), str(path), policies.ids)
    return Patterns(file, SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC)))


@cache
def _literals() -> dict[str, str]:
    file = _patterns()._file
    return {one.id: lower(one.text) for one in file.patterns if one.kind == "literal"}


def check_patterns(data: bytes) -> int:
    """Match the analysts' patterns, and see that every hit lies in the text as it came."""
    raw = to_text(data)
    title, description = raw[:300], raw
    signal = _patterns().match(title, description)
    wanted = "missing" if not raw else "error" if len(raw) > MAX_FIELD_CHARS else "ok"
    assert signal.status == wanted
    for hit in signal.hits:
        text = title if hit.field == "title" else description
        assert 0 <= hit.span.begin < hit.span.end <= len(text)
        if hit.reading == "original" and (literal := _literals().get(hit.pattern_id)):
            assert lower(text[slice(*hit.span)]) == literal
    return len(raw)


def check_expression(data: bytes) -> int:
    """Compile an expression, refused or not, and search a text with it."""
    text = to_text(data)[:500]
    try:
        expressions = [Expression(text, word_boundaries=words) for words in (False, True)]
    except ValueError as error:
        assert len(str(error)) < 2_000
        return len(text)
    haystack = (text * 3 + " aab gun 枪支 ab" * 20)[:2_000].encode("utf-8", "replace")
    for expression in expressions:
        found = expression.find(haystack, 33)
        assert len(found) <= 33
        assert all(begin < end for begin, end in found)
        assert all(a[1] <= b[0] for a, b in zip(found, found[1:], strict=False)), "spans overlap"
        for begin, end in found:
            haystack[begin:end].decode()
    return len(text) + len(haystack)


def _mutate_expression(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    return (of_bytes if rng.random() < 0.7 else of_text)(rng, seeds)


_READERS: Final = (
    "moderation.text",
    "moderation.spoofing",
    "moderation.leetspeak",
    "moderation.text_spans",
)

TEXTS: Final = (
    Target("text", words, of_text, check_text, 30, 15, 250, "characters", 120, _READERS),
    Target("words", words, of_text, check_words, 10, 15, 150, "characters", 120, _READERS),
    Target(
        "patterns",
        words,
        of_text,
        check_patterns,
        8,
        15,
        150,
        "characters",
        120,
        ("moderation.patterns", "moderation.expressions", "moderation.disguised_words"),
    ),
    Target(
        "expression",
        lambda: [one.encode() for one in _EXPRESSIONS],
        _mutate_expression,
        check_expression,
        5,
        150,
        60,
        "characters",
        120,
        ("moderation.expressions",),
    ),
)
