"""Predictor, gateway and feature stream as processes on loopback: started, waited for, ended with all they started."""

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

import httpx

from moderation.clock import Clock, SystemClock
from moderation.errors import PermanentError

HOST: Final = "127.0.0.1"

# A bundle is verified and its models are opened before the first port: half a minute on a slow, busy machine.
_START_S: Final = 120.0
_STOP_S: Final = 15.0
_POLL_S: Final = 0.1
_TAIL_CHARS: Final = 3_000


class StartFailed(PermanentError):
    """A process did not come up; the message ends with what it logged last."""


@dataclass(frozen=True)
class ServingProcess:
    """A running predictor or gateway."""

    name: str
    url: str
    """Where it is called: `grpc://host:port` of a predictor, `http://host:port` of a gateway."""

    http_url: str
    """Where its health and metrics are."""

    pid: int
    log: Path


@contextlib.contextmanager
def start_predictor(
    bundle: Path,
    *,
    log_folder: Path,
    num_threads: int | None = None,
    environment: Mapping[str, str] | None = None,
    is_unattested: bool = False,
) -> Iterator[ServingProcess]:
    """Run a predictor on free ports for the length of the `with` block.

    Args:
        bundle: folder of the bundle, with its attestations.
        log_folder: where its log goes.
        num_threads: of one inference session; None for what the settings say.
        environment: settings as variables.
        is_unattested: serve the bundle whatever the gates say of it: for tests and measurements alone.

    Raises:
        StartFailed: if it ends early, as with a bundle that did not pass the gates, or is not ready in time.
    """
    threads = [] if num_threads is None else ["--num_threads", str(num_threads)]

    def command(http_port: int, grpc_port: int) -> list[str]:
        ports = ["--http_port", str(http_port), "--grpc_port", str(grpc_port)]
        admission = ["--unattested"] if is_unattested else []
        return ["serving.predictor", "--bundle", str(bundle), *ports, *threads, *admission]

    with _run("predictor", command, "/v2/health/ready", log_folder, environment) as process:
        yield process


@contextlib.contextmanager
def start_explainer(
    bundle: Path, *, log_folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[ServingProcess]:
    """Run an explainer on a free port for the length of the `with` block.

    Raises:
        StartFailed: if it ends early or is not ready in time.
    """

    def command(http_port: int, _: int) -> list[str]:
        return ["serving.explainer", "--bundle", str(bundle), "--http_port", str(http_port)]

    with _run("explainer", command, "/v2/health/ready", log_folder, environment) as process:
        yield process


@contextlib.contextmanager
def start_gateway(
    *, routing: Path, log_folder: Path, environment: Mapping[str, str]
) -> Iterator[ServingProcess]:
    """Run a gateway on a free port for the length of the `with` block.

    Args:
        routing: file of the routing table; it may be written later.
        log_folder: where its log goes.
        environment: settings as variables, at least `TIDEGATE__HOME` and `TIDEGATE__GATEWAY_TOKENS`.

    Raises:
        StartFailed: if it ends early or is not ready in time.
    """

    def command(http_port: int, _: int) -> list[str]:
        return ["serving.gateway", "--port", str(http_port), "--routing", str(routing)]

    with _run("gateway", command, "/readyz", log_folder, environment) as process:
        yield process


@contextlib.contextmanager
def start_features(*, log_folder: Path, environment: Mapping[str, str]) -> Iterator[ServingProcess]:
    """Run the feature stream of a home for the length of the `with` block.

    Raises:
        StartFailed: if it ends early (another stream writes the store) or is not ready in time.
    """

    def command(http_port: int, _: int) -> list[str]:
        return ["featurestore", "--port", str(http_port)]

    with _run("features", command, "/metrics", log_folder, environment) as process:
        yield process


@contextlib.contextmanager
def _run(
    name: str,
    command: Callable[[int, int], Sequence[str]],
    ready_path: str,
    log_folder: Path,
    environment: Mapping[str, str] | None,
) -> Iterator[ServingProcess]:
    http_port, grpc_port = _free_ports(2)
    log_folder.mkdir(parents=True, exist_ok=True)
    log = log_folder / f"{name}-{http_port}.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", *command(http_port, grpc_port)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=_environment(environment),
            start_new_session=True,
        )
    stop = _stopper(child)
    atexit.register(stop)
    try:
        http_url = f"http://{HOST}:{http_port}"
        _wait_until_ready(name, child, http_url + ready_path, log, SystemClock())
        url = f"grpc://{HOST}:{grpc_port}" if name == "predictor" else http_url
        yield ServingProcess(name, url, http_url, child.pid, log)
    finally:
        stop()
        atexit.unregister(stop)


def _environment(extra: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return this process's environment with `extra`; None leaves it as it is."""
    return None if extra is None else {**os.environ, **extra}  # noqa: TID251  # handed on, not read


def _wait_until_ready(
    name: str, child: subprocess.Popen[bytes], url: str, log: Path, clock: Clock
) -> None:
    deadline, pause = clock.monotonic() + _START_S, Event()
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        while clock.monotonic() < deadline:
            if child.poll() is not None:
                raise StartFailed(
                    f"the {name} ended with status {child.returncode}; {log} says:\n{_tail(log)}"
                )
            with contextlib.suppress(httpx.HTTPError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            pause.wait(_POLL_S)
    raise StartFailed(f"the {name} was not ready in {_START_S:.0f} s; {log} says:\n{_tail(log)}")


def _stopper(child: subprocess.Popen[bytes]) -> Callable[[], None]:
    def stop() -> None:
        """End the whole process group: politely, then for certain."""
        for sign, wait_s in ((signal.SIGTERM, _STOP_S), (signal.SIGKILL, _STOP_S)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(wait_s)
                return

    return stop


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_TAIL_CHARS:]


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now; all are held open until all are known, so none comes twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
