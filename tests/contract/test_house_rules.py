"""Rules of the house that no linter knows: file sizes, and documents that tell the truth."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 500
MAX_TEST_LINES = 400


def _tracked(pattern: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [ROOT / name for name in names if (ROOT / name).exists()]


def test_modules_stay_short() -> None:
    long = []
    for path in _tracked("*.py"):
        limit = MAX_TEST_LINES if "tests" in path.parts else MAX_MODULE_LINES
        num_lines = len(path.read_text().splitlines())
        if num_lines > limit:
            long.append(f"{path.relative_to(ROOT)}: {num_lines} > {limit}")
    assert not long, long


def test_architecture_names_every_package() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    tree = text.split("```text", 1)[1].split("```", 1)[0]
    named = set(re.findall(r"^([a-z_.]+)/", tree, re.MULTILINE))
    on_disk = {path.relative_to(ROOT).parts[0] for path in _tracked("*") if path.parent != ROOT}
    assert named == on_disk


def test_architecture_names_every_domain_module() -> None:
    tree = (ROOT / "ARCHITECTURE.md").read_text().split("```text", 1)[1].split("```", 1)[0]
    part = tree.split("moderation/", 1)[1].split("\nmarketplace/", 1)[0]
    named = set(re.findall(r"\b([a-z_0-9]+\.py)\b", part)) | {"__init__.py"}
    folder = ROOT / "moderation"
    on_disk = {path.name for path in _tracked("moderation/*.py") if path.parent == folder}
    assert on_disk - named == set()
    assert named - on_disk == set()


@pytest.mark.parametrize("path", sorted((ROOT / "docs/adr").glob("*.md")), ids=lambda p: p.stem)
def test_adr_has_its_four_parts(path: Path) -> None:
    parts = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
    assert parts == ["Status", "Context", "Decision", "Consequences"]


def test_relative_links_of_documents_exist() -> None:
    broken = []
    for path in _tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)} -> {target}")
    assert not broken, broken


def test_every_make_target_is_listed_with_help() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.findall(r"^\.PHONY: ([a-z-]+)$", text, re.MULTILINE))
    helped = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert declared == helped
