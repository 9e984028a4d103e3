"""`tidegate load` as a person runs it: its report, its file, its exit codes."""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moderation.settings import settings
from tests.stub_gateway import StubGateway, served
from tidegate.__main__ import main
from tidegate.console import console, errors
from tidegate.host import commit

Load = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    tokens = "root:admin:adm1n,shop:submitter:s3cret"
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path))
    monkeypatch.setenv("TIDEGATE__GATEWAY_TOKENS", tokens)
    for one in (console, errors):
        monkeypatch.setattr(one, "width", 200)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def load(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Load]:
    """Run the whole command in this process; returns its exit code and all that it printed."""
    listing = home / "listing.json"
    listing.write_text(json.dumps({"listing": {"listing_id": "l1", "title": "Blue bicycle"}}))

    def run(*arguments: str, listings: bool = True) -> tuple[int, str]:
        chosen = ["--listing", str(listing)] if listings else []
        monkeypatch.setattr("sys.argv", ["tidegate", "load", *arguments, *chosen])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, " ".join((told.out + told.err).split())

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


SHORT = ("--rate", "100", "--warmup", "0.1", "--duration", "0.3")


def test_report_is_shown_and_written(load: Load, home: Path) -> None:
    gateway, out = StubGateway(), home / "out" / "report.json"
    with served(gateway) as url:
        code, told = load(*SHORT, "--url", url, "--out", str(out), "--limit", "errors=0.001")
    assert code == 0, told
    assert "100 a second asked" in told
    assert "30 due in 0.3 s, 30 sent, 0 dropped by the sender" in told
    assert "answers 200 OK 30 (100.00%)" in told
    assert "tiers allow 30 (100.00%)" in told
    assert "limit errors kept: 0, limit <= 0.001" in told
    assert gateway.authorization == "Bearer s3cret"
    assert gateway.num_uploads == 41
    report = json.loads(out.read_text())
    assert list(report)[:5] == ["name", "command", "arguments", "commit", "host"]
    assert report["host"]["cores"] == os.cpu_count()
    row = report["rows"][0]
    assert (row["due"], row["status 200"], row["tier allow"]) == (30, 30, 30)
    assert 0 < row["due p99"] <= row["due max"]
    assert report["targets"][0]["ok"] is True


def test_exceeded_limit_is_named_and_ends_with_1(load: Load) -> None:
    gateway = StubGateway()
    gateway.statuses = (200, 200, 503)
    gateway.answer = {"tier": "review", "reasons": [{"code": "MODEL_UNAVAILABLE"}]}
    limits = ("--limit", "errors=0.001", "--limit", "fallbacks=1", "--limit", "p99=5000")
    with served(gateway) as url:
        code, told = load(*SHORT, "--url", url, *limits)
    assert code == 1, told
    assert "503 Service Unavailable 10 (33.33%)" in told
    assert "fallbacks without a model 20 (100.00%)" in told
    assert "limit errors exceeded: 0.3333" in told
    assert "limit fallbacks kept" in told
    assert "limit p99 exceeded: never" in told


def test_gateway_that_is_not_there_ends_with_2(load: Load) -> None:
    with served(StubGateway()) as url:
        pass
    code, told = load(*SHORT, "--url", url)
    assert code == 2
    assert f"the gateway at {url} does not answer" in told
    assert "start it with `tidegate serve`" in told
    code, told = load(*SHORT)
    assert code == 2
    assert "no gateway is running here" in told


def test_run_without_a_decision_ends_with_2(load: Load) -> None:
    gateway = StubGateway()
    gateway.statuses = (503,)
    with served(gateway) as url:
        code, told = load(*SHORT, "--url", url)
        assert code == 2
        assert "nothing was measured: no upload was decided" in told
        gateway.statuses = (401,)
        code, told = load(*SHORT, "--url", url)
    assert code == 2
    assert "the gateway answered 401 to the first upload" in told


def test_ctrl_c_gives_the_report_so_far(home: Path) -> None:
    listing = home / "listing.json"
    listing.write_text(json.dumps({"listing": {"listing_id": "l1", "title": "Blue bicycle"}}))
    begun: queue.SimpleQueue[int] = queue.SimpleQueue()
    gateway = StubGateway()
    gateway.on_upload = lambda number: (
        os.kill(begun.get(timeout=60), signal.SIGINT) if number == 30 else None
    )
    with served(gateway) as url:
        asked = ["--rate", "100", "--warmup", "0.1", "--duration", "600", "--url", url]
        command = [sys.executable, "-m", "tidegate", "load", *asked, "--listing", str(listing)]
        # A process of its own, as a terminal's: the signal must reach nobody else.
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            begun.put(process.pid)
            told, _ = process.communicate(timeout=120)
    said = " ".join(told.decode().split())
    assert process.returncode == 0, said
    assert "stopped after" in said
    assert "answers 200 OK" in said


def test_mistakes_are_told_with_their_remedy(load: Load) -> None:
    code, told = load("--limit", "p98=3", "--url", "http://127.0.0.1:9")
    assert code == 2
    assert "limits are p50 (ms" in told
    code, told = load("--url", "http://127.0.0.1:9", listings=False)
    assert code == 2
    assert "run `tidegate demo` in this home, or name some with --listing" in told
    code, told = load("--max-in-flight", str(10**12), "--url", "http://127.0.0.1:9")
    assert code == 2
    assert "lower --max-in-flight" in told


def test_report_that_cannot_be_written_is_told_after_the_figures(load: Load, home: Path) -> None:
    (home / "file").write_text("")
    with served(StubGateway()) as url:
        code, told = load(*SHORT, "--url", url, "--out", str(home / "file" / "report.json"))
    assert code == 2
    assert "30 due in 0.3 s" in told
    assert "the figures are printed above" in told


def test_unseen_listings_are_sent_in_turn(load: Load, home: Path) -> None:
    records: list[dict[str, object]] = [
        {"listing": {"listing_id": f"u{k}"}, "images": [], "violated": None, "policies": []}
        for k in range(3)
    ]
    (home / "unseen.jsonl").write_text("\n".join(map(json.dumps, records)))
    with served(StubGateway()) as url:
        code, told = load(*SHORT, "--poisson", "3", "--url", url, listings=False)
    assert code == 0, told
    assert "of 3 listings to" in told
    assert "3 listings were sent" in told


def test_commit_is_unknown_where_there_is_no_git(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"
