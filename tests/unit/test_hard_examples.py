"""The export of what an attack turned: to be looked at and made again, never trained on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moderation.attacks.hard_examples import (
    INSPECT,
    MAX_EXAMPLES,
    DamagedExport,
    HardExample,
    export,
    read,
)
from moderation.attacks.registry import GATE, Subject, apply
from tests.attacked import subject

BUNDLE = "a" * 64


def _example(number: int = 0, **changes: Any) -> HardExample:
    fields: dict[str, Any] = {
        "submission_id": f"s-{number}",
        "policy": "weapons",
        "truth": 1,
        "bundle": BUNDLE,
        "attack": "leet",
        "family": "text",
        "severity": GATE,
        "before": 0.9,
        "after": 0.1,
        "like": {"language": "en"},
    }
    return HardExample(**(fields | changes))


def _export(
    examples: list[HardExample],
    folder: Path,
    subject_of: Callable[[str], Subject | None] = lambda _id: subject(),
) -> Path:
    return export(examples, folder, bundle=BUNDLE, subject_of=subject_of)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_export_says_what_a_line_is_for(tmp_path: Path) -> None:
    path = _export([_example()], tmp_path)
    (line,) = _lines(path)
    assert path == tmp_path / f"{BUNDLE}.jsonl"
    assert line["use"] == INSPECT
    assert line["like"] == {"language": "en"}
    assert (line["policy"], line["truth"], line["bundle"]) == ("weapons", 1, BUNDLE)


@pytest.mark.parametrize("name", ["homoglyph", "blur", "words_into_image", "neighbour_text"])
def test_line_can_be_made_again(tmp_path: Path, name: str) -> None:
    (line,) = _lines(_export([_example(attack=name)], tmp_path))
    again = apply(
        line["attack"], subject(), severity=line["severity"], key=bytes.fromhex(line["key"])
    )
    assert again is not None
    assert line["attacked"]["title"] == again.title
    assert line["attacked"]["description"] == again.description
    for digest, image in zip(line["attacked"]["images"], again.images, strict=True):
        data = (tmp_path / "images" / f"{digest}.jpg").read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        with Image.open(tmp_path / "images" / f"{digest}.jpg") as stored:
            assert stored.size == image.size


def test_export_tells_when_a_line_cannot_be_made_again(tmp_path: Path) -> None:
    examples = [_example(0, attack="pgd", family="white_box"), _example(1), _example(2)]

    def subject_of(submission_id: str) -> Subject | None:
        return None if submission_id == "s-1" else Subject("", "")

    lines = _lines(_export(examples, tmp_path, subject_of))
    assert [line["attacked"] for line in lines] == [None, None, None]


def test_export_keeps_the_worst_and_replaces_itself(tmp_path: Path) -> None:
    many = [_example(number) for number in range(MAX_EXAMPLES + 5)]
    assert len(_lines(_export(many, tmp_path, lambda _id: None))) == MAX_EXAMPLES
    path = _export(many[:2], tmp_path, lambda _id: None)
    assert [line["submission_id"] for line in _lines(path)] == ["s-0", "s-1"]
    assert not list(tmp_path.glob("*.unfinished"))


def test_file_is_emptied_when_nothing_fails_any_more(tmp_path: Path) -> None:
    _export([_example()], tmp_path)
    assert _lines(_export([], tmp_path)) == []


def test_export_is_read_back_as_it_was(tmp_path: Path) -> None:
    examples = [_example(0), _example(1, truth=0, attack="pgd", severity=0.5, like={})]
    assert read(_export(examples, tmp_path)) == examples
    assert read(_export([], tmp_path)) == []


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"format": 1', '"format": 9', "not of format 1"),
        ('"truth": 1', '"truth": 2', "truth: "),
        ('"policy": "weapons", ', "", "policy: "),
        ('"like": {"language": "en"}', '"like": {"language": 4}', "like.language: "),
        (BUNDLE, "b" * 64, "of another bundle"),
        ("}", "", "Expecting"),
        ("{", "[{", "Expecting"),
        ("weapons", "\udcff", "can't decode"),
    ],
)
def test_damaged_export_is_refused_with_the_remedy(
    tmp_path: Path, old: str, new: str, why: str
) -> None:
    path = _export([_example()], tmp_path, lambda _id: None)
    text = path.read_text().replace(old, new)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DamagedExport, match=why) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "delete it" in str(caught.value)


def test_export_without_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _export([_example()], tmp_path, lambda _id: None)
    path.write_text(path.read_text() * (MAX_EXAMPLES + 1))
    with pytest.raises(DamagedExport, match="more than 200 lines"):
        read(path)
    monkeypatch.setattr("moderation.attacks.hard_examples.MAX_BYTES", 100)
    with pytest.raises(DamagedExport, match="larger than 100 bytes"):
        read(path)
    with pytest.raises(DamagedExport, match="No such file"):
        read(tmp_path / "none.jsonl")
