import contextlib
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

import serving.process
from serving.process import StartFailed, start_gateway, start_predictor


def _environment(home: Path, **changes: str) -> dict[str, str]:
    return {"TIDEGATE__HOME": str(home), "TIDEGATE__GATEWAY_TOKENS": "a:admin:t"} | changes


def test_gateway_runs_and_ends_with_its_group(tmp_path: Path) -> None:
    with start_gateway(
        routing=tmp_path / "routing.json",
        log_folder=tmp_path / "logs",
        environment=_environment(tmp_path),
    ) as gateway:
        answer = httpx.get(f"{gateway.url}/readyz").json()
        assert answer["checks"]["predictor"] == "no routing table"
        assert os.getpgid(gateway.pid) == gateway.pid
    with pytest.raises(ProcessLookupError):
        os.kill(gateway.pid, 0)
    assert "predictor" not in gateway.log.read_text()


def test_start_fails_with_the_log_when_settings_are_wrong(tmp_path: Path) -> None:
    environment = _environment(tmp_path, TIDEGATE__GATEWAY_TOKENS="nonsense")
    with (
        pytest.raises(StartFailed, match=r"status 1;(.|\n)*gateway_tokens"),
        start_gateway(
            routing=tmp_path / "routing.json", log_folder=tmp_path, environment=environment
        ),
    ):
        pytest.fail("it must not start")


def test_start_fails_when_there_is_no_bundle(tmp_path: Path) -> None:
    with (
        pytest.raises(StartFailed, match=r"manifest\.json"),
        start_predictor(tmp_path / "nowhere", log_folder=tmp_path),
    ):
        pytest.fail("it must not start")


def test_start_fails_in_bounded_time_when_never_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.process, "_START_S", 0.3)
    with (
        pytest.raises(StartFailed, match="not ready in 0 s"),
        start_gateway(
            routing=tmp_path / "r.json", log_folder=tmp_path, environment=_environment(tmp_path)
        ),
    ):
        pytest.fail("it cannot be ready so soon")


def test_stop_is_certain_when_the_process_is_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.process, "_STOP_S", 1.0)
    with start_gateway(
        routing=tmp_path / "r.json", log_folder=tmp_path, environment=_environment(tmp_path)
    ) as gateway:
        os.kill(gateway.pid, signal.SIGSTOP)
    with pytest.raises(ProcessLookupError):
        os.kill(gateway.pid, 0)


def test_free_ports_are_free_and_different() -> None:
    ports = serving.process._free_ports(20)
    assert len(set(ports)) == 20
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", ports[0]))
