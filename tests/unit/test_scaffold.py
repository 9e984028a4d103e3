"""Scaffolds: a new component compiles, a new record has the house's parts, nothing is overwritten."""

import ast
from pathlib import Path

import pytest

from scripts.scaffold import scaffold_adr, scaffold_component


def test_component_scaffold_is_valid_python(tmp_path: Path) -> None:
    (tmp_path / "components").mkdir()
    path = scaffold_component("detect_drift", tmp_path)
    tree = ast.parse(path.read_text())
    assert [node.name for node in tree.body if isinstance(node, ast.FunctionDef)] == [
        "detect_drift"
    ]
    assert "def run(" in (path.parent / "step.py").read_text()
    with pytest.raises(FileExistsError):
        scaffold_component("detect_drift", tmp_path)


def test_component_scaffold_refuses_a_bad_name(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="verb phrase"):
        scaffold_component("DetectDrift", tmp_path)


def test_adr_scaffold_numbers_after_the_last(tmp_path: Path) -> None:
    (tmp_path / "docs/adr").mkdir(parents=True)
    (tmp_path / "docs/adr/0004-x.md").write_text("")
    path = scaffold_adr("Keep weights in the table", tmp_path)
    assert path.name == "0005-keep-weights-in-the-table.md"
    assert "## Consequences" in path.read_text()
