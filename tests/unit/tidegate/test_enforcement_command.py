from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moderation.errors import PermanentError
from moderation.settings import settings
from serving.errors import NothingToChange
from tidegate.app import app

RUNNER = CliRunner(env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def test_stop_by_hand_is_shown_until_it_is_reset() -> None:
    assert RUNNER.invoke(app, ["enforcement", "show"]).exit_code == 0
    said = ["--reason", "wave of false blocks", "--by", "ana"]
    assert RUNNER.invoke(app, ["enforcement", "stop", *said]).exit_code == 0
    shown = RUNNER.invoke(app, ["enforcement", "show"])
    assert shown.exit_code == 1
    assert "by ana (admin)" in shown.output
    assert "wave of false blocks" in shown.output
    assert RUNNER.invoke(app, ["enforcement", "reset", *said]).exit_code == 0
    assert RUNNER.invoke(app, ["enforcement", "show"]).exit_code == 0


def test_reset_is_refused_when_nothing_is_stopped_or_no_reason_is_given() -> None:
    said = ["enforcement", "reset", "--reason", "wave of false blocks", "--by", "ana"]
    refused = RUNNER.invoke(app, said)
    assert isinstance(refused.exception, NothingToChange)
    short = RUNNER.invoke(app, ["enforcement", "stop", "--reason", "no", "--by", "ana"])
    assert isinstance(short.exception, PermanentError)
    assert "reason" in str(short.exception)
