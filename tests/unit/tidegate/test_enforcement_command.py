import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger.spill import SpillState
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.settings import settings
from serving.errors import NothingToChange
from serving.gateway.heartbeat import GatewayBeat, write_beat
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


def test_a_gateway_that_spills_is_shown(home: Path) -> None:
    now = SystemClock().now()
    beat = GatewayBeat(
        gateway="g1",
        host=socket.gethostname(),
        pid=os.getpid(),
        started_at=now,
        at=now,
        revision=7,
        renewal=0,
        lease="live",
        arms={},
        shadow=None,
        breakers={"ledger": "open", "features": "closed"},
        enforcement=None,
        spill=SpillState(events=4, blobs=2, num_bytes=900, quarantined=0),
    )
    write_beat(home / "gateways", beat)
    shown = RUNNER.invoke(app, ["enforcement", "show"]).output
    assert "gateway g1: alive, revision 7" in shown
    assert "ledger open, 4 events and 2 blobs are spilled" in shown
