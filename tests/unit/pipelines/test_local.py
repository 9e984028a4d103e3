import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moderation.errors import TemporaryError
from pipelines.local import PipelineFailed, RunResult, run_pipeline
from pipelines.steps import StepEvent

PIPELINE = "tests.unit.pipelines.two_steps:two_steps"


def _run(folder: Path, events: list[StepEvent], version: str = "1") -> RunResult:
    return run_pipeline(
        PIPELINE,
        {"folder": str(folder), "version": version},
        runs=folder / "runs",
        name="test",
        on_step=events.append,
    )


def _told(events: list[StepEvent]) -> list[tuple[str, str]]:
    return [(event.step, event.what) for event in events]


def test_run_tells_every_step_and_gives_outputs(tmp_path: Path) -> None:
    events: list[StepEvent] = []
    done = _run(tmp_path, events)
    assert done.outputs == {"Output": "made"}
    assert _told(events) == [
        ("first", "started"),
        ("first", "finished"),
        ("second", "started"),
        ("second", "progress"),
        ("second", "finished"),
    ]
    assert (events[3].done, events[3].total, events[3].note) == (1, 2, "rows")
    assert "@progress 1/2 rows" in done.log.read_text()


def test_run_hands_its_settings_to_the_steps(tmp_path: Path) -> None:
    run_pipeline(
        PIPELINE,
        {"folder": str(tmp_path), "version": "1"},
        runs=tmp_path / "runs",
        name="test",
        on_step=lambda event: None,
        environment={"TIDEGATE__RELEASE_PROFILE": "demo"},
    )
    assert (tmp_path / "accepts").read_text() == "demo"


def test_run_takes_unchanged_steps_from_the_cache(tmp_path: Path) -> None:
    _run(tmp_path, [])
    events: list[StepEvent] = []
    assert _run(tmp_path, events).outputs == {"Output": "made"}
    assert _told(events) == [("first", "cached"), ("second", "cached")]


def test_run_repeats_steps_when_the_version_changes(tmp_path: Path) -> None:
    _run(tmp_path, [])
    events: list[StepEvent] = []
    _run(tmp_path, events, version="2")
    assert ("first", "finished") in _told(events)
    assert ("second", "finished") in _told(events)


def test_run_names_the_step_and_reason_when_it_fails(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(PipelineFailed, match="InvalidSnapshot: no rows; import some") as caught:
        _run(tmp_path, [])
    assert caught.value.step == "second"
    assert "Traceback" in caught.value.log.read_text()


def test_run_resumes_after_a_failure(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(PipelineFailed):
        _run(tmp_path, [])
    (tmp_path / "fail").unlink()
    events: list[StepEvent] = []
    _run(tmp_path, events)
    assert _told(events)[0] == ("first", "cached")
    assert (tmp_path / "first.runs").read_text() == "x"


def test_run_ends_its_steps_and_resumes_when_killed(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    script = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from pipelines.local import run_pipeline\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"run_pipeline({PIPELINE!r}, {{'folder': str(folder), 'version': '1'}},\n"
        "    runs=folder / 'runs', name='test', on_step=lambda event: None)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    _wait_until((tmp_path / "second.started").exists)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 3
    _wait_until(lambda: not _steps_alive(tmp_path))

    (tmp_path / "hang").unlink()
    events: list[StepEvent] = []
    _run(tmp_path, events)
    assert _told(events)[0] == ("first", "cached")
    assert _told(events)[-1] == ("second", "finished")
    assert (tmp_path / "first.runs").read_text() == "x"


def test_run_refuses_a_second_one_in_the_same_home(tmp_path: Path) -> None:
    busy: list[str] = []

    def start_another(event: StepEvent) -> None:
        if event.what == "started" and not busy:
            busy.append(event.step)
            with pytest.raises(TemporaryError, match="another pipeline run"):
                _run(tmp_path, [])

    run_pipeline(
        PIPELINE,
        {"folder": str(tmp_path), "version": "1"},
        runs=tmp_path / "runs",
        name="test",
        on_step=start_another,
    )
    assert busy == ["first"]


def _steps_alive(folder: Path) -> bool:
    """Return whether any process still works on `folder`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in command:
                return True
    return False


def _wait_until(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen in time")
