"""The commands around the banks, on a real home."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from components.home import Home
from moderation.bank_versions import BankVersions
from moderation.clock import SystemClock
from moderation.errors import BankRejected
from moderation.settings import settings
from tests.bank_world import entries_file, entry, good, hashes
from tidegate.app import app


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BankVersions]:
    """The banks of the home that the settings name while a test runs."""
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield BankVersions(Home(tmp_path / "home").banks, SystemClock())
    settings.cache_clear()


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["banks", *arguments])


def _told(*arguments: str) -> str:
    said = _run(*arguments)
    assert said.exit_code == 0, f"{said.output} {said.exception}"
    return said.output


def _refused(*arguments: str) -> str:
    said = _run(*arguments)
    assert said.exit_code != 0
    assert isinstance(said.exception, BankRejected)
    return str(said.exception)


def _entries(tmp_path: Path, num: int, **fields: Any) -> str:
    rows = [entry(f"gun-{number}", one, **fields) for number, one in enumerate(hashes(num))]
    rows.append(good("drill", hashes(1, seed=9)[0]))
    return str(entries_file(tmp_path / "entries.jsonl", rows))


def test_a_version_is_built_activated_and_rolled_back(
    tmp_path: Path, versions: BankVersions
) -> None:
    built = _told("build", _entries(tmp_path, 3))
    [first] = versions.versions()
    assert f"version  {first}: 4 entries within 31 bits" in built
    assert "bank     guns: 3 known bad" in built
    assert f"tidegate banks activate {first}" in built
    assert "no version is active" in _told("list")
    assert first in _told("activate", first[:8])
    _told("build", _entries(tmp_path, 5), "--activate")
    listed = _told("list")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [
        name[:16] for name in versions.versions()
    ]
    active = versions.active()
    assert active is not None
    assert active.version != first
    assert f"active   {first}" in _told("rollback")
    assert "no version to roll back to" in _refused("rollback")


def test_entries_are_switched_with_a_reason_and_a_name(
    tmp_path: Path, versions: BankVersions
) -> None:
    _told("build", _entries(tmp_path, 3), "--activate")
    by = ["--reason", "stock photo of a drill", "--by", "ana"]
    assert "switches 1" in _told("disable", "gun-1", "gun-2", *by)
    assert "disabled gun-1: stock photo of a drill (ana, " in _told("show")
    assert "switches 2" in _told("enable", "gun-1", *by)
    assert "enabled  gun-1" in _told("show")
    assert "no entry ['gun-9']" in _refused("disable", "gun-9", *by)
    assert "--reason: String should have at least 8" in _refused(
        "disable", "gun-1", "--reason", "no", "--by", "ana"
    )


def test_a_damaged_version_is_told_and_never_active(tmp_path: Path, versions: BankVersions) -> None:
    _told("build", _entries(tmp_path, 3), "--activate")
    _told("build", _entries(tmp_path, 5))
    [second] = {*versions.versions()} - {getattr(versions.active(), "version", "")}
    assert "every byte is as it was built" in _told("verify", second[:6])
    damaged = tmp_path / "home" / "banks" / "versions" / second / "hashes.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert "was altered" in _refused("verify", second)
    assert "was altered" in _refused("activate", second)
    damaged.unlink()
    assert "damaged" in _told("list")
    assert "every byte" in _told("verify")


def test_a_lost_state_comes_back_with_its_switches_and_says_so(
    tmp_path: Path, versions: BankVersions
) -> None:
    assert "taken over" not in _told("build", _entries(tmp_path, 3), "--activate")
    by = ["--reason", "stock photo of a drill", "--by", "ana"]
    _told("disable", "gun-1", *by)
    versions.active_file.write_bytes(b"garbage")
    assert "takes over the newest switches" in _refused("show")
    [version] = versions.versions()
    assert "switches 1, the newest, were taken over" in _told("activate", version[:8])
    assert "disabled gun-1: stock photo of a drill (ana, " in _told("show")
    versions.active_file.unlink()
    assert "were taken over" in _told("build", _entries(tmp_path, 3), "--activate")
    assert "switches 2" in _told("disable", "gun-2", *by)
    assert "taken over" not in _told("activate", version[:8])


def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path, versions: BankVersions) -> None:
    assert "no version is active" in _refused("show")
    assert "none was built" in _refused("verify", "abc")
    wrong = _entries(tmp_path, 3, policy="unknown")
    assert "names no policy" in _refused("build", wrong)
    _told("build", _entries(tmp_path, 3))
    _told("build", _entries(tmp_path, 4))
    first, second = versions.versions()
    assert f"there are: {first[:12]}, {second[:12]}" in _refused("activate", "zz")
    for name in ("zz1", "zz2"):
        (tmp_path / "home" / "banks" / "versions" / name).mkdir()
    assert "several versions begin with 'zz'" in _refused("activate", "zz")
    assert "no version begins with ''" in _refused("activate", "")
