"""Texts that copy golden ones are found although they were altered; what many write is no copy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moderation.errors import InvalidSnapshot
from moderation.text_copies import TextMarks
from tests.golden_world import own_text

CATALOGUE = "fresh organic milk one litre from happy cows in the highlands of the north"


def _marks(num: int = 20, *, has_image: bool = True) -> TextMarks:
    texts = [own_text(seed) for seed in range(num)] + [CATALOGUE]
    everyone = [(text, group) for group, text in enumerate(texts)]
    everyone += [(CATALOGUE, 100 + group) for group in range(20)]
    return TextMarks.of([(text, has_image) for text in texts], everyone)


def _typo(text: str) -> str:
    middle = len(text) // 2
    return f"{text[:middle]}q{text[middle + 1 :]}"


@pytest.mark.parametrize(
    "altered",
    [
        lambda text: text,
        str.upper,
        _typo,
        "\u200b".join,
        lambda text: text.replace("a", "\u0430"),
        lambda text: f"{text} many thanks for looking at this honest offer",
        lambda text: f"top seller, quick dispatch: {text}",
    ],
    ids=["same", "case", "typo", "zero width", "homoglyph", "padded", "prefixed"],
)
def test_altered_text_is_a_copy(altered: Callable[[str], str]) -> None:
    marks = _marks()
    found = [marks.copied(altered(own_text(seed)), has_image=True) for seed in range(20)]
    assert found == list(range(20))


def test_other_texts_are_no_copies() -> None:
    marks = _marks()
    assert {marks.copied(own_text(seed), has_image=True) for seed in range(50, 90)} == {-1}
    assert marks.copied("", has_image=False) == -1
    assert marks.copied(own_text(3)[:9], has_image=True) == -1


def test_catalogue_text_is_a_copy_only_without_images() -> None:
    with_image, bare = _marks(), _marks(has_image=False)
    assert with_image.copied(CATALOGUE, has_image=False) == -1
    assert bare.copied(CATALOGUE, has_image=True) == -1
    assert bare.copied(CATALOGUE, has_image=False) == 20


def test_marks_survive_saving_with_their_digest(tmp_path: Path) -> None:
    marks = _marks()
    marks.save(tmp_path)
    read = TextMarks.load(tmp_path)
    assert read.digest == marks.digest
    assert read.copied(own_text(4), has_image=True) == 4
    assert _marks(19).digest != marks.digest


def test_damaged_marks_are_refused(tmp_path: Path) -> None:
    _marks().save(tmp_path)
    (tmp_path / "texts.npz").write_bytes(b"PK nothing")
    with pytest.raises(InvalidSnapshot, match=r"texts\.npz cannot be read"):
        TextMarks.load(tmp_path)


def test_marks_of_texts_that_are_all_short_match_nothing() -> None:
    marks = TextMarks.of([("bike", True), ("", True)], [("bike", 0), ("", 1)])
    assert len(marks.mark_S) == 0
    assert marks.copied("bike", has_image=True) == -1
    assert marks.num_marks_G.dtype == np.int64
