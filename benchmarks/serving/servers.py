"""Servers as processes of their own: ours by the project's environment, a peer by one that its lock file fills."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

from benchmarks.serving.engine import Listing
from benchmarks.serving.load import Target, ask
from moderation.clock import SystemClock
from serving.process import start_predictor

HERE: Final = Path(__file__).parent
PEERS: Final = ("litserve", "mlserver", "bentoml")
_START_S: Final = 90.0
_HOST: Final = "127.0.0.1"


def installed(peer: str) -> Path:
    """Return the Python of a peer's environment, filled from its lock file where it is not there yet.

    What the lock file does not name is taken from the project's environment, whose versions it was compiled with.

    Raises:
        RuntimeError: if it cannot be installed.
    """
    home = Path("build/peers").absolute() / peer
    python, lock = home / "bin" / "python", HERE / "peers" / f"{peer}.lock"
    if (home / "lock").exists() and (home / "lock").read_text() == lock.read_text():
        return python
    uv = Path(sys.executable).parent / "uv"
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, home],
        [uv, "pip", "install", "--quiet", "--python", python, "-r", lock],
    ):
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-300:])
    packages = home / "lib" / "python3.11" / "site-packages"
    (packages / "project.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    (home / "lock").write_text(lock.read_text())
    return python


@dataclass(frozen=True)
class Served:
    """A server that answers."""

    target: Target
    group: int
    """Of its processes."""

    @contextlib.contextmanager
    def alone(self, others: Iterable["Served"]) -> Iterator[None]:
        """Hold the others up for the length of the `with` block: LitServe at rest takes a tenth of a core."""
        held = [other for other in others if other is not self]
        try:
            for other in held:
                os.killpg(other.group, signal.SIGSTOP)
            yield
        finally:
            for other in held:
                os.killpg(other.group, signal.SIGCONT)


@contextlib.contextmanager
def running(
    name: str, bundle: Path, listing: Listing, threads: tuple[int, int, int]
) -> Iterator[Served]:
    """Run a server for the length of the `with` block; it answers before the block begins.

    Args:
        name: `ours`, `kserve` or a peer.
        bundle: what it serves.
        listing: of every request.
        threads: of one batch; batches at once; those that prepare. Only ours knows the last two.

    Raises:
        RuntimeError: with the end of its log, if it does not answer.
    """
    logs = Path("build/peers").absolute()
    logs.mkdir(parents=True, exist_ok=True)
    num_threads, workers, prepare = threads
    if name == "ours":
        environment = {
            "TIDEGATE__PREDICTOR_WORKERS": str(workers),
            "TIDEGATE__PREDICTOR_PREPARERS": str(prepare),
        }
        with start_predictor(
            bundle,
            log_folder=logs,
            num_threads=num_threads,
            environment=environment,
            is_unattested=True,
        ) as process:
            port = int(process.http_url.rsplit(":", 1)[1])
            yield Served(Target(_HOST, port, *_request(name, *listing)), process.pid)
        return
    python = Path(sys.executable) if name == "kserve" else installed(name)
    port = _free_port()
    module = f"benchmarks.serving.peers.{name}_server"
    command = [module, str(port)]
    if name == "bentoml":
        command = ["bentoml", "serve", f"{module}:Scoring", "--host", _HOST, "--port", str(port)]
    served = {"bundle": str(bundle), "num_threads": num_threads}
    (logs / "served.json").write_text(json.dumps(served))
    log = logs / f"{name}.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [str(python), "-m", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    target = Target(_HOST, port, *_request(name, *listing))
    try:
        _wait(target, child, log)
        yield Served(target, child.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(10)


def first_probability(name: str, body: bytes) -> float:
    """Return the first policy's probability in an answer."""
    content: Any = json.loads(body)
    if name in ("ours", "mlserver"):
        return float(content["outputs"][0]["data"][0])
    if name == "kserve":
        return float(content["predictions"][0][0])
    return float(content["probability"][0] if name == "litserve" else content[0][0])


def _request(name: str, title: str, image: bytes | None) -> tuple[str, bytes]:
    """Return path and body of one listing in the server's own protocol."""
    images = [] if image is None else [base64.b64encode(image).decode()]
    listing = {"title": title, "images": images}
    if name in ("ours", "mlserver"):
        inputs: list[dict[str, Any]] = [
            {"name": key, "datatype": "BYTES", "shape": [1], "data": values}
            for key, values in (("title", [title]), ("images", images))
            if values
        ]
        if name == "ours" and images:
            inputs.append({"name": "image_count", "datatype": "INT32", "shape": [1], "data": [1]})
        return "/v2/models/tidegate/infer", json.dumps({"inputs": inputs}).encode()
    path, content = {
        "kserve": ("/v1/models/tidegate:predict", {"instances": [listing]}),
        "litserve": ("/predict", listing),
        "bentoml": ("/score", {"listings": [listing]}),
    }[name]
    return path, json.dumps(content).encode()


def _wait(target: Target, child: subprocess.Popen[bytes], log: Path) -> None:
    clock, pause = SystemClock(), Event()
    end_s, last = clock.monotonic() + _START_S, ""
    while clock.monotonic() < end_s and child.poll() is None:
        try:
            ask(target)
        except (OSError, EOFError, RuntimeError) as error:
            last = str(error)
            pause.wait(0.3)
        else:
            return
    raise RuntimeError(f"{last}; {log.read_text(errors='replace')[-300:]}")


def _free_port() -> int:
    """Return a port that is free with the two behind it."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind((_HOST, 0))
            port = int(first.getsockname()[1])
            try:
                for near in (port + 1, port + 2):
                    stack.enter_context(socket.socket()).bind((_HOST, near))
            except OSError:
                continue
            return port
