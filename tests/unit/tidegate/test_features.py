"""The feature store as commands: set up, streamed into, looked at; one writer; refused events shown and counted."""

import fcntl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SystemClock
from moderation.manifest import FORMAT, MANIFEST, Inputs, Manifest
from moderation.settings import settings
from tests.feature_events import upload
from tidegate.app import app
from tidegate.console import console

RUNNER = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TIDEGATE__HOME", str(tmp_path))
    monkeypatch.setattr(console, "width", 200)
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def _run(*arguments: str) -> str:
    done = RUNNER.invoke(app, ["features", *arguments])
    return done.output + (str(done.exception) if done.exception else "")


def _upload(home: Path, name: str, ago: timedelta, recorded_ago: timedelta | None = None) -> None:
    now = SystemClock().now()
    at = now - (ago if recorded_ago is None else recorded_ago)
    event = from_submission(upload(name, now - ago), recorded_at=at)
    SqliteLedger(home / "ledger.sqlite").append([event])


def test_a_store_is_set_up_filled_and_shown(home: Path) -> None:
    _upload(home, "u1", timedelta(minutes=5))
    assert "seller_activity" in _run("apply")
    assert "counted  1 events, 1 versions of rows; refused 0" in _run("stream", "--once")
    shown = _run("show", "s1")
    assert "submissions_1h" in shown
    assert "behind the stream" in shown
    assert "known    1 events were counted before" in _run("stream", "--once")
    assert "nothing of this seller is known" in _run("show", "nobody")


def test_refused_events_are_shown_and_counted_after_all(home: Path) -> None:
    _run("apply")
    _run("stream", "--once")
    assert "no event was refused" in _run("refused")
    _upload(home, "u1", timedelta(days=3), timedelta(seconds=1))
    assert "refused 1" in _run("stream", "--once")
    shown = _run("refused")
    assert "submission:u1" in shown
    assert "in all   late 1" in shown
    assert "left     late 1" in _run("replay")
    assert "left     none" in _run("replay", "--waive", "late")


def test_profiles_are_written_and_say_how_far_the_stream_is(home: Path) -> None:
    _upload(home, "u1", timedelta(minutes=5))
    _run("apply")
    assert "the stream has come to nowhere yet" in _run("profile")
    _run("stream", "--once")
    said = _run("profile")
    assert "profiles 1 sellers" in said
    assert "behind" not in said
    earlier = _run("profile", "--as-of", "2026-01-02")
    assert "profiles 0 sellers as of 2026-01-02 00:00" in earlier
    assert "online   unchanged" in earlier
    assert "has not come yet" in _run("profile", "--as-of", "2999-01-01")


def test_each_bundle_gets_a_service_or_is_refused_with_its_reason(home: Path) -> None:
    assert "services none: there is no bundle yet" in _run("apply")
    digests = []
    for features_read in (("submissions_1h", "reports_30d"), ("karma",)):
        manifest = Manifest(
            format=FORMAT,
            policies=("p",),
            profile="tiny",
            inputs=Inputs(snapshot="0" * 64, code="c", config="c", seed=1),
            features=features_read,
            members=("fusion",),
            components={},
            files={},
        )
        digests.append(manifest.digest())
        folder = home / "bundles" / digests[-1]
        folder.mkdir(parents=True)
        (folder / MANIFEST).write_text(manifest.model_dump_json())
    (home / "bundles" / "torn").mkdir()
    (home / "bundles" / "torn" / MANIFEST).write_text("{}")
    said = _run("apply")
    assert f"services behaviour_{digests[0][:12]}\n" in said
    assert f"refused  {digests[1][:12]}: bundle {digests[1][:12]} gets no feature service" in said
    assert "unknown karma" in said
    assert "refused  torn: manifest.json" in said


def test_only_known_reasons_can_be_waived(home: Path) -> None:
    assert "reasons are late, null_flood" in _run("replay", "--waive", "future")


def test_a_store_has_one_writer(home: Path) -> None:
    _run("apply")
    with (home / "features" / "stream.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "stop `tidegate features stream` first" in _run("replay")
        assert "stop `tidegate features stream` first" in _run("prune")
        assert "nothing was changed" in _run("prune", "--dry-run")
    assert "rows past their days are gone" in _run("prune")


@pytest.mark.parametrize(
    "command", [["stream", "--once"], ["show", "s1"], ["replay"], ["prune"], ["profile"]]
)
def test_without_a_store_each_command_says_what_to_do(home: Path, command: list[str]) -> None:
    assert "tidegate features apply" in _run(*command)


def test_skew_is_printed_feature_by_feature(home: Path) -> None:
    _upload(home, "u1", timedelta(minutes=5))
    said = _run("skew")
    assert "decisions of the day before" in said
    assert "price_log_ratio" in said
    assert "differs" not in said


def test_skew_of_a_day_that_is_none_says_so(home: Path) -> None:
    assert "2026-13-01" in _run("skew", "--date", "2026-13-01")
