"""Analysts' patterns over a listing: all literals by Aho-Corasick in one pass, expressions by RE2, nothing backtracks.

Every field is read as it came, as it looks and as it is meant; literals also where signs keep their words apart, or
where they are spelled letter by letter. Hits are told by where they lie in the text as it came.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal, NamedTuple

import ahocorasick

from moderation.clock import Clock
from moderation.disguised_words import is_spelled, part, spelled_readings, unpart
from moderation.expressions import Expression, Span, has_edge
from moderation.pattern_file import Pattern, PatternFile, Reading, lower
from moderation.text import Text, normalise
from moderation.text_spans import original_spans

MAX_FIELD_CHARS: Final = 100_000
"""Of a title or a description; a listing may hold a fifth of it. A longer one is an error, never read in part."""

MAX_HITS: Final = 32
"""Hits of one pattern that are told per reading of a field."""

_MAX_LITERAL_HITS: Final = 200_000
"""Literals that are looked at per reading of a field: ten at every character of a listing, which no sane file has."""

Field = Literal["title", "description"]


@dataclass(frozen=True)
class PatternHit:
    """One place where a pattern matches."""

    pattern_id: str
    policy: str
    tier: Literal["tag", "review"]
    """What it may lead to at most."""

    field: Field
    span: Span
    """Characters of the field as it came."""

    reading: Reading
    """The first reading that shows the hit there: as it came, as it looks, as it is meant."""


@dataclass(frozen=True)
class PatternSignal:
    """What the patterns say of one listing. Where the status is not ok they say nothing, which is not "no hit"."""

    status: Literal["ok", "missing", "error"]
    reason: str
    """Why the status is not ok: `no_text` or `too_long`."""

    hits: tuple[PatternHit, ...]
    """By field, then place; overlapping ones too."""

    is_cut: bool
    """Whether there are more hits: of a pattern with `MAX_HITS` in one reading, while others are all there; or of any,
    where 200,000 literals overlap in one field."""

    version: str
    digest: str
    """SHA-256 of the pattern file."""

    latency_ms: float


class _Found(NamedTuple):
    number: int
    span: Span


class _Needle(NamedTuple):
    text: str
    number: int


class _Literals:
    """What literals look like in one reading."""

    def __init__(self, patterns: Sequence[Pattern], needles: Iterable[_Needle]) -> None:
        owners: dict[str, list[int]] = {}
        for needle, number in needles:
            owners.setdefault(needle, []).append(number)
        self._patterns = patterns
        self._automaton = ahocorasick.Automaton()
        for needle, numbers in owners.items():
            self._automaton.add_word(needle, (len(needle), numbers))
        if owners:
            self._automaton.make_automaton()
        self._is_empty = not owners

    def find(self, text: str, cut: set[int]) -> Iterator[_Found]:
        """Yield every literal of a text, overlapping ones too; patterns with more than is told go into `cut`."""
        if self._is_empty:
            return
        counts: dict[int, int] = {}
        for seen, (last, (length, numbers)) in enumerate(self._automaton.iter(text)):
            if seen == _MAX_LITERAL_HITS:
                cut.update(range(len(self._patterns)))
                return
            span = Span(last + 1 - length, last + 1)
            is_word = has_edge(text, span.begin) and has_edge(text, span.end)
            for number in numbers:
                if self._patterns[number].word_boundaries and not is_word:
                    continue
                counts[number] = counts.get(number, 0) + 1
                if counts[number] > MAX_HITS:
                    cut.add(number)
                else:
                    yield _Found(number, span)


class _Expressions:
    """The expressions of one reading; each reads the text once."""

    def __init__(self, patterns: Sequence[Pattern], reading: Reading) -> None:
        asked = "original" if reading == "original" else "normalised"
        self._compiled = [
            (number, Expression(pattern.text, word_boundaries=pattern.word_boundaries))
            for number, pattern in enumerate(patterns)
            if pattern.kind == "regex" and pattern.reading in (asked, "both")
        ]

    def find(self, text: str, cut: set[int]) -> Iterator[_Found]:
        """Yield what each expression matches, leftmost first; those with more than is told go into `cut`."""
        if not self._compiled:
            return
        # A lone surrogate, which no expression can ask for, becomes one character too.
        data = text.encode("utf-8", "replace")
        for number, expression in self._compiled:
            found = expression.find(data, MAX_HITS + 1)
            if len(found) > MAX_HITS:
                cut.add(number)
            for begin, end in found[:MAX_HITS]:
                yield _Found(number, Span(_chars(data, begin), _chars(data, end)))


class _Disguised:
    """Literals of which signs keep the words apart, or that are spelled letter by letter."""

    def __init__(self, patterns: Sequence[Pattern], plain: Collection[_Needle]) -> None:
        self._patterns, self._plain = patterns, frozenset(plain)
        parted = {_Needle(part(one.text), one.number) for one in self._plain}
        # "__init__" would be every "init".
        parted = {one for one in parted if one.text.strip() == one.text}
        joined = {_Needle(text.replace(" ", ""), number) for text, number in parted if " " in text}
        self._has_separators = not parted <= self._plain
        self._parted = _Literals(patterns, sorted(parted))
        self._joined = _Literals(patterns, sorted(joined))

    def find(self, text: Text, cut: set[int]) -> list[_Found]:
        """Return literals by their places in the text as it came, without those that lie in a plain reading too."""
        spelled = [*spelled_readings(text)]
        found: list[_Found] = []
        for base in dict.fromkeys((text.normalised, text.folded, *spelled)):
            is_plain = base in (text.normalised, text.folded)
            found += _placed(text.original, base, self._in_parted(base, cut, is_plain=is_plain))
        for base in spelled:
            hits = _placed(text.original, base, [*self._joined.find(base, cut)])
            found += [hit for hit in hits if is_spelled(text.original[slice(*hit.span)])]
        return found

    def _in_parted(self, base: str, cut: set[int], *, is_plain: bool) -> list[_Found]:
        parted = part(base)
        if is_plain and parted == base and not self._has_separators:
            return []
        found = [*self._parted.find(parted, cut)]
        spans = unpart(base, [one.span for one in found]) if found else []
        moved = [_Found(one.number, span) for one, span in zip(found, spans, strict=True)]
        return [one for one in moved if not (is_plain and self._is_known(base, one))]

    def _is_known(self, base: str, found: _Found) -> bool:
        """Return whether the plain reading shows a hit too."""
        begin, end = found.span
        is_word = has_edge(base, begin) and has_edge(base, end)
        return _Needle(base[begin:end], found.number) in self._plain and (
            is_word or not self._patterns[found.number].word_boundaries
        )


def _placed(original: str, read: str, found: Sequence[_Found]) -> list[_Found]:
    """Return what was found in a reading by its places in the text as it came."""
    if not found:
        return []
    spans = original_spans(original, read, [one.span for one in found])
    return [_Found(one.number, span) for one, span in zip(found, spans, strict=True)]


def _chars(data: bytes, place: int) -> int:
    return place if data.isascii() else len(data[:place].decode())


class Patterns:
    """Matches the patterns of one file; disabled ones are left out, expired ones told apart by the clock."""

    def __init__(self, file: PatternFile, clock: Clock) -> None:
        """Compile the patterns: once per file, time and memory linear in its size."""
        self._file, self._clock = file, clock
        self._patterns = tuple(pattern for pattern in file.patterns if pattern.enabled)
        readings: tuple[Reading, ...] = ("original", "normalised", "folded")
        needles = {one: _needles(self._patterns, one) for one in readings}
        self._literals = {one: _Literals(self._patterns, needles[one]) for one in readings}
        self._disguised = _Disguised(self._patterns, needles["normalised"] + needles["folded"])
        self._expressions = {one: _Expressions(self._patterns, one) for one in readings}

    @property
    def version(self) -> str:
        """Version and digest of the file."""
        return f"{self._file.version}@sha256:{self._file.digest}"

    def match(self, title: str, description: str) -> PatternSignal:
        """Return every hit in a listing's text.

        Time: linear in the text; each of the three readings is passed over by all literals together, at most three
        times, and once by each expression, at worst its steps times the characters. A text with words spelled letter
        by letter, and with wider spaces, is normalised twice. Memory: a few copies of the text.

        Args:
            title: as the seller wrote it.
            description: likewise.
        """
        started = self._clock.monotonic()
        if not title and not description:
            return self._signal("missing", "no_text", started)
        if max(len(title), len(description)) > MAX_FIELD_CHARS:
            return self._signal("error", "too_long", started)
        hits: list[PatternHit] = []
        cut: set[int] = set()
        today = self._clock.now().date()
        texts: tuple[tuple[Field, str], ...] = (("title", title), ("description", description))
        for field, text in texts:
            hits += self._in_field(field, text, today, cut)
        is_cut = any(_is_live(self._patterns[number], today) for number in cut)
        return self._signal("ok", "", started, tuple(hits), is_cut)

    def _in_field(self, field: Field, text: str, today: date, cut: set[int]) -> list[PatternHit]:
        shown = normalise(text)
        readings: dict[Reading, str] = {
            "original": text,
            "normalised": shown.normalised,
            "folded": shown.folded,
        }
        first: dict[tuple[int, Span], Reading] = {}
        for reading, read in readings.items():
            for found in self._in_reading(reading, text, read, today, cut):
                first.setdefault(found, reading)
        for found in self._disguised.find(shown, cut):
            if _is_live(self._patterns[found.number], today):
                first.setdefault(found, "folded")
        hits = [self._hit(field, number, span, by) for (number, span), by in first.items()]
        return sorted(hits, key=lambda hit: (hit.span, hit.pattern_id))

    def _in_reading(
        self, reading: Reading, original: str, read: str, today: date, cut: set[int]
    ) -> list[_Found]:
        plain = lower(read) if reading == "original" else read
        found = [
            *self._literals[reading].find(plain, cut),
            *self._expressions[reading].find(read, cut),
        ]
        live = [one for one in found if _is_live(self._patterns[one.number], today)]
        return live if reading == "original" else _placed(original, read, live)

    def _hit(self, field: Field, number: int, span: Span, reading: Reading) -> PatternHit:
        pattern = self._patterns[number]
        return PatternHit(pattern.id, pattern.policy, pattern.tier, field, span, reading)

    def _signal(
        self,
        status: Literal["ok", "missing", "error"],
        reason: str,
        started: float,
        hits: tuple[PatternHit, ...] = (),
        is_cut: bool = False,
    ) -> PatternSignal:
        return PatternSignal(
            status=status,
            reason=reason,
            hits=hits,
            is_cut=is_cut,
            version=self._file.version,
            digest=self._file.digest,
            latency_ms=(self._clock.monotonic() - started) * 1_000,
        )


def _needles(patterns: Sequence[Pattern], reading: Reading) -> list[_Needle]:
    return [
        _Needle(needles[reading], number)
        for number, pattern in enumerate(patterns)
        if pattern.kind == "literal" and reading in (needles := pattern.needles())
    ]


def _is_live(pattern: Pattern, today: date) -> bool:
    return pattern.expires is None or today < pattern.expires
