"""The patterns in force: a changed file counts at the next look, a wrong one never does."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation.clock import SimulatedClock
from moderation.errors import PatternError
from moderation.pattern_book import PatternBook
from tests.small_disk import nothing_opens

CLOCK = SimulatedClock(datetime(2026, 11, 22, tzinfo=UTC))


def write(path: Path, word: str, policy: str = "spam") -> Path:
    path.write_text(
        f"version: {word}\npatterns:\n"
        f"  - {{id: one, policy: {policy}, kind: literal, text: {word}, note: for tests, author: ana}}\n"
    )
    return path


def hits(book: PatternBook, title: str) -> list[str]:
    said = book.match(title, "")
    assert said is not None
    return [hit.pattern_id for hit in said.hits]


def test_a_changed_file_counts_at_the_next_look(tmp_path: Path) -> None:
    path = write(tmp_path / "patterns.yaml", "pistol")
    book = PatternBook(path, ["spam"], CLOCK)
    before = book.version
    write(path, "voucher")
    assert hits(book, "a voucher") == []
    book.refresh()
    assert hits(book, "a voucher") == ["one"]
    assert book.version != before


def test_a_wrong_file_is_refused_once_and_the_old_one_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "patterns.yaml", "pistol")
    book = PatternBook(path, ["spam"], CLOCK)
    write(path, "voucher", policy="unknown")
    for _ in range(3):
        book.refresh()
    assert book.num_refused == 1
    assert "no policy unknown" in str(book.problem)
    assert hits(book, "a pistol") == ["one"]
    path.unlink()
    for _ in range(3):
        book.refresh()
    assert (book.num_refused, hits(book, "a pistol")) == (2, ["one"])
    write(path, "voucher")
    book.refresh()
    assert (book.problem, hits(book, "a voucher")) == (None, ["one"])


def test_a_file_that_cannot_be_read_now_is_read_later(tmp_path: Path) -> None:
    path = write(tmp_path / "patterns.yaml", "pistol")
    book = PatternBook(path, ["spam"], CLOCK)
    write(path, "voucher")
    with nothing_opens():
        for _ in range(3):
            book.refresh()
    assert "cannot be read" in str(book.problem)
    assert (book.num_refused, hits(book, "a pistol")) == (1, ["one"])
    book.refresh()
    assert (book.problem, hits(book, "a voucher")) == (None, ["one"])


def test_a_file_that_is_back_as_it_was_is_no_problem(tmp_path: Path) -> None:
    path = write(tmp_path / "patterns.yaml", "pistol")
    book = PatternBook(path, ["spam"], CLOCK)
    path.rename(tmp_path / "away")
    book.refresh()
    assert book.problem is not None
    (tmp_path / "away").rename(path)
    book.refresh()
    assert book.problem is None


def test_a_file_that_is_wrong_at_first_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(PatternError, match="no policy unknown"):
        PatternBook(write(tmp_path / "patterns.yaml", "x", policy="unknown"), ["spam"], CLOCK)
    with pytest.raises(PatternError, match="cannot be read"):
        PatternBook(tmp_path / "none.yaml", ["spam"], CLOCK)


def test_a_marketplace_without_patterns_has_none() -> None:
    book = PatternBook(None, ["spam"], CLOCK)
    book.refresh()
    assert (book.version, book.match("a pistol", "")) == (None, None)
