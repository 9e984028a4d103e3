"""The README's commands are run as they stand there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _blocks() -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


def _make_lines() -> list[str]:
    lines = [line.split("#")[0].strip() for block in _blocks() for line in block.splitlines()]
    return [line for line in lines if line.startswith("make ")]


@pytest.mark.parametrize("line", _make_lines())
def test_readme_make_line_names_a_target(line: str) -> None:
    done = subprocess.run(
        [*line.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_readme_tour_runs_as_written(tmp_path: Path) -> None:
    tour = next(block for block in _blocks() if "tidegate simulate" in block)
    script = tour.replace("build/tour", str(tmp_path / "tour"))
    assert script != tour
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (tmp_path / "tour/ledger.sqlite").is_file()
