"""From places in what a model reads of a listing back to its title and description as they came."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from moderation.explanation import Piece
from moderation.expressions import Span
from moderation.text import document, model_text, ngram_texts
from moderation.text_spans import original_spans

_Field = Literal["title", "description"]


@dataclass(frozen=True)
class _Part:
    field: _Field
    original: str
    reading: str
    begin: int
    """Where the part begins in the whole reading."""


@dataclass(frozen=True)
class Places:
    """One reading of a listing's text, and the parts that it is made of."""

    reading: str
    parts: tuple[_Part, ...]

    @classmethod
    def of_tower(cls, title: str, description: str) -> "Places":
        """Return what a text tower reads."""
        reading = model_text(title, description)
        first, second = model_text(title, ""), model_text("", description)
        begin = len(first) + 2 if first and second else 0  # ". " joins them
        parts = (_Part("title", title, first, 0), _Part("description", description, second, begin))
        return cls(reading, parts)

    @classmethod
    def of_ngrams(cls, title: str, description: str, *, is_folded: bool) -> "Places":
        """Return one of the two forms that the n-gram model reads: as it looks, or as it is meant."""
        read = ngram_texts(title, description)
        reading = read.folded if is_folded else read.normalised
        first, second = document(title, ""), document("", description)
        title_reads, description_reads = (
            (one.folded if is_folded else one.normalised).strip() for one in (first, second)
        )
        begin = len(reading) - len(description_reads)
        parts = (
            _Part("title", title, title_reads, 0),
            _Part("description", description, description_reads, begin),
        )
        return cls(reading, parts)

    def pieces(self, scored: Iterable[tuple[int, int, float]]) -> list[Piece]:
        """Return scored stretches of the reading as pieces of the original; those in no part are left out.

        Args:
            scored: begin, end and score of each, in the reading.
        """
        found: list[Piece] = []
        listed = list(scored)
        for part in self.parts:
            last = part.begin + len(part.reading)
            inside = [
                (Span(begin - part.begin, min(end, last) - part.begin), score)
                for begin, end, score in listed
                if part.begin <= begin < min(end, last)
            ]
            spans = original_spans(part.original, part.reading, [span for span, _ in inside])
            found += [
                Piece(
                    field=part.field,
                    begin=span.begin,
                    end=span.end,
                    text=part.original[span.begin : span.end],
                    score=score,
                )
                for span, (_, score) in zip(spans, inside, strict=True)
            ]
        return found
