"""The commands around the golden set, on a real home."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.home import Home
from moderation.golden import latest_golden, record_look
from moderation.settings import settings
from tests.toy_home import toy_home
from tidegate.app import app


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home that the settings name while a test runs."""
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


@pytest.fixture
def home(folder: Path) -> Home:
    return toy_home(folder, 240)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["golden", *arguments])


def test_built_set_is_shown_and_rotated(home: Home) -> None:
    built = _run("build")
    assert built.exit_code == 0, built.output
    golden = latest_golden(home.golden)
    assert golden is not None
    assert golden.digest in built.output
    shown = _run("show")
    assert golden.digest in shown.output
    assert "weapons violations" in shown.output
    rotated = _run("rotate", "--as-of", "2026-04-20")
    assert rotated.exit_code == 0, rotated.output
    assert "golden set 2" in rotated.output
    assert golden.digest in _run("show", "--version", "1").output
    assert "no golden set 9" in str(_run("show", "--version", "9").exception)


def test_looks_are_told(home: Home) -> None:
    assert _run("build").exit_code == 0
    golden = latest_golden(home.golden)
    assert golden is not None
    at = datetime(2026, 5, 1, tzinfo=UTC)
    record_look(golden, bundle="b" * 64, seed=17, by="a proof", at=at, max_looks=50)
    told = _run("looks").output
    assert "2026-05-01 00:00" in told
    assert "version 1: 1 of 50 looks used" in told


@pytest.mark.parametrize("command", ["show", "looks"])
@pytest.mark.usefixtures("home")
def test_nothing_built_is_told_with_its_remedy(command: str) -> None:
    assert "tidegate golden build" in str(_run(command).exception)


@pytest.mark.usefixtures("folder")
def test_empty_home_is_told_with_its_remedy() -> None:
    assert "the ledger holds no truth" in str(_run("build").exception)
    told = str(_run("build", "--as-of", "2026-04-01").exception)
    assert "holds no ledger" in told
