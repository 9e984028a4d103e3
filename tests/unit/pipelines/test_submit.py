import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from moderation.clock import SimulatedClock
from moderation.errors import PermanentError, TemporaryError
from pipelines.parameters import Parameters
from pipelines.submit import DAILY, submit_daily, submit_once

pytestmark = [
    # The server's own generated client warns about itself.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CLOCK = SimulatedClock(datetime(2026, 11, 20, 3, tzinfo=UTC))
PARAMETERS = Parameters(
    logical_date="2026-11-20",
    data_version="local",
    code_digest="c" * 64,
    config_digest="d" * 64,
    policies="version: 1",
    release_contract="version: 1",
    release_profile="standard",
    profile="small",
    seed=17,
    num_trials=3,
    min_positives=30,
    home="/somewhere/here",
    study_url="",
    prior_study="auto",
    tracking_url="",
    git_commit="",
)


BASE = "/apis/v2beta1"


class FakeServer:
    """A stand-in for a Kubeflow Pipelines server: the routes that a submission uses, in memory."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.pipelines: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.experiments: list[dict[str, Any]] = []
        self.recurring: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.refuse = False
        self.url = ""

    def answer(self, method: str, target: str, body: Any) -> tuple[int, dict[str, Any]]:
        self.requests.append((method, target, body))
        if self.refuse and "healthz" not in target:
            return 403, {"error": "no"}
        path, query = urlsplit(target).path.removeprefix(BASE), parse_qs(urlsplit(target).query)
        routes: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
            ("GET", r"/healthz", lambda: {"multi_user": False}),
            ("GET", r"/pipelines", lambda: {"pipelines": self.pipelines}),
            ("POST", r"/pipelines/upload", lambda: self.upload(query["name"][0])),
            ("POST", r"/pipelines/upload_version", lambda: self.upload_version(query["name"][0])),
            ("GET", r"/pipelines/p1/versions", lambda: {"pipeline_versions": self.versions}),
            ("GET", r"/experiments", lambda: {"experiments": self.experiments}),
            ("POST", r"/experiments", lambda: self.keep(self.experiments, "experiment_id", body)),
            ("POST", r"/runs", lambda: self.keep(self.runs, "run_id", body)),
            ("GET", r"/recurringruns", lambda: {"recurringRuns": self.recurring}),
            (
                "POST",
                r"/recurringruns",
                lambda: self.keep(self.recurring, "recurring_run_id", body),
            ),
            ("DELETE", r"/recurringruns/.+", lambda: self.drop(path.rsplit("/", 1)[1])),
        ]
        for verb, pattern, act in routes:
            if verb == method and re.fullmatch(pattern, path):
                return 200, act()
        return 404, {"error": target}

    def upload(self, name: str) -> dict[str, Any]:
        self.pipelines.append({"pipeline_id": "p1", "display_name": name, "name": name})
        return self.pipelines[-1]

    def upload_version(self, name: str) -> dict[str, Any]:
        version_id = f"v{len(self.versions) + 1}"
        self.versions.append(
            {"pipeline_id": "p1", "pipeline_version_id": version_id, "display_name": name}
        )
        return self.versions[-1]

    @staticmethod
    def keep(kept: list[dict[str, Any]], key: str, body: dict[str, Any]) -> dict[str, Any]:
        kept.append(body | {key: f"{key}-{len(kept) + 1}"})
        return kept[-1]

    def drop(self, recurring_run_id: str) -> dict[str, Any]:
        self.recurring = [r for r in self.recurring if r["recurring_run_id"] != recurring_run_id]
        return {}


@contextmanager
def running() -> Iterator[FakeServer]:
    """Serve on a free port of the loopback until the block ends."""
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            body = json.loads(raw) if raw and is_json else raw
            status, content = fake.answer(self.command, self.path, body)
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = serve  # names that the base class looks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running() as fake:
        yield fake


def test_submit_starts_a_run_of_the_uploaded_version(server: FakeServer) -> None:
    done = submit_once(server.url, PARAMETERS, CLOCK)
    run = server.runs[0]
    assert done.run_id == "run_id-1"
    assert run["pipeline_version_reference"] == {
        "pipeline_id": "p1",
        "pipeline_version_id": "v1",
    }
    given = run["runtime_config"]["parameters"]
    assert given["home"] == "/var/lib/tidegate"
    assert given["data_version"] == "submitted-20261120030000"
    assert given["code_digest"] == "c" * 64


def test_submit_uploads_a_version_once_per_code(server: FakeServer) -> None:
    submit_once(server.url, PARAMETERS, CLOCK)
    again = submit_once(server.url, PARAMETERS, CLOCK)
    uploads = [t for m, t, _ in server.requests if m == "POST" and "upload_version" in t]
    assert again.version_id == "v1"
    assert len(uploads) == 1


def test_submit_daily_schedules_without_catching_up(server: FakeServer) -> None:
    submit_daily(server.url, PARAMETERS)
    job = server.recurring[0]
    assert job["trigger"]["cron_schedule"]["cron"] == DAILY
    assert job["no_catchup"] is True
    assert job["max_concurrency"] == "1" or job["max_concurrency"] == 1
    given = job["runtime_config"]["parameters"]
    assert given["logical_date"] == "[[ScheduledTime.2006-01-02]]"
    assert given["data_version"] == "scheduled-[[ScheduledTime]]"


def test_submit_daily_replaces_the_earlier_schedule(server: FakeServer) -> None:
    submit_daily(server.url, PARAMETERS)
    second = submit_daily(server.url, PARAMETERS, cron="0 30 3 * * *")
    assert [job["recurring_run_id"] for job in server.recurring] == [second.recurring_run_id]


def test_submit_daily_refuses_a_five_field_cron(server: FakeServer) -> None:
    with pytest.raises(PermanentError, match="six fields"):
        submit_daily(server.url, PARAMETERS, cron="0 2 * * *")
    assert server.requests == []


def test_submit_says_when_the_server_refuses(server: FakeServer) -> None:
    server.refuse = True
    with pytest.raises(PermanentError, match="403"):
        submit_once(server.url, PARAMETERS, CLOCK)


def test_submit_says_when_nobody_listens() -> None:
    with pytest.raises(TemporaryError, match="cannot be reached"):
        submit_once("http://127.0.0.1:9", PARAMETERS, CLOCK)
