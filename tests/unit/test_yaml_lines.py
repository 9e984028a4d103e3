"""A YAML file is read whole, or refused: whatever its tags, its depth and its aliases."""

from pathlib import Path

import pytest

from ledger.mapping import MappingError, load_mapping
from moderation.errors import PatternError, PolicyError
from moderation.pattern_file import parse_patterns
from moderation.policy import load_policies
from moderation.release import parse_release
from moderation.yaml_lines import MAX_NODES, load

HOSTILE = {
    "nested in itself": b"version: &a [1, *a]",
    "nested in itself beside keys": b"version: 1\npatterns: [[[[{a: &a [1, *a]}]]]]",
    "nested too deep": b"version: " + b"[" * 1_000,
    "a time that is none": b"version: !!timestamp soon",
    "a number that is none": b"version: !!int x",
    "a truth value that is none": b"version: !!bool perhaps",
    "a day that is none": b"version: 2026-02-30",
    "aliases that unfold": b"version: 1\na0: &a0 [1, 1]\n"
    + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 60)),
    "not text": b"version: \xff\xfe",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ValueError, match="."):
        load(HOSTILE[name])
    with pytest.raises(PatternError, match=r"x\.yaml: cannot be read"):
        parse_patterns(HOSTILE[name], "x.yaml", ["spam"])
    with pytest.raises(PolicyError, match=r"x\.yaml: cannot be read"):
        parse_release(HOSTILE[name], "x.yaml")
    with pytest.raises(PolicyError, match=r"hostile\.yaml: cannot be read"):
        load_policies(path)
    with pytest.raises(MappingError, match=r"hostile\.yaml: cannot be read"):
        load_mapping(path)


def test_aliases_are_read() -> None:
    node, content = load(b"a: &a {b: 1}\nc: *a")
    assert content == {"a": {"b": 1}, "c": {"b": 1}}
    assert node is not None


def test_an_empty_file_says_nothing() -> None:
    assert load(b"") == (None, None)


def test_aliases_may_unfold_to_many_values() -> None:
    many = b"[" + b"1," * 1_000 + b"]"
    repeats = MAX_NODES // 2_000
    _, content = load(b"a: &a " + many + b"\nb: [" + b"*a," * repeats + b"]")
    assert len(content["b"]) == repeats
