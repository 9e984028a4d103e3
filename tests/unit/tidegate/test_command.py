import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tidegate.app import app

RUNNER = CliRunner()
COMMANDS = [
    ["demo"],
    ["simulate"],
    ["simulate", "audit"],
    ["import"],
    ["train"],
    ["evaluate"],
    ["serve"],
    ["decide"],
    ["load"],
    ["audit", "prefilter"],
    ["replay"],
    ["bundle", "show"],
    ["bundle", "verify"],
    ["golden", "build"],
    ["golden", "show"],
    ["golden", "rotate"],
    ["golden", "looks"],
    ["banks", "build"],
    ["banks", "list"],
    ["banks", "show"],
    ["banks", "activate"],
    ["banks", "rollback"],
    ["banks", "enable"],
    ["banks", "disable"],
    ["banks", "verify"],
    ["features", "apply"],
    ["features", "stream"],
    ["features", "show"],
    ["features", "refused"],
    ["features", "replay"],
    ["gates", "run"],
    ["gates", "list"],
    ["gates", "show"],
    ["gates", "promote"],
    ["pipelines", "compile"],
    ["pipelines", "run"],
    ["pipelines", "submit"],
]


def _run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "tidegate", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "TIDEGATE__HOME": str(home), "COLUMNS": "200"},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_gives_an_example(command: list[str]) -> None:
    shown = RUNNER.invoke(app, [*command, "--help"])
    assert shown.exit_code == 0
    assert f"tidegate {' '.join(command)}" in " ".join(shown.output.split())
    assert "Example:" in shown.output


def test_help_comes_quickly_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tidegate.app import app\n"
        "heavy = {'torch', 'kfp', 'mlflow', 'numpy', 'pyarrow', 'onnxruntime', 'serving'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_error_is_one_line_without_a_traceback(tmp_path: Path) -> None:
    done = _run("train", home=tmp_path / "nothing")
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "run `tidegate simulate` or `tidegate import` first" in done.stderr
    assert "Traceback" not in done.stderr


def test_error_names_an_unknown_setting(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidegate", "evaluate"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "TIDEGATE__HOMES": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "TIDEGATE__HOMES" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["decide", "--title", "x"], "no gateway is running here"),
        (["decide"], "nothing to judge"),
        (["decide", "missing.json"], "missing.json: cannot be read as JSON"),
        (["decide", "--image", "missing.jpg"], "image missing.jpg"),
        (["replay", "f" * 32], "no decision has the trace id"),
        (["bundle", "verify", "nowhere"], "manifest.json"),
        (["pipelines", "submit", "--host", "http://127.0.0.1:9"], "say which run"),
        (["train", "--profile", "huge"], "no such profile: 'huge'"),
    ],
)
def test_mistake_is_told_with_its_remedy(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = _run(*arguments, home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_help_takes_less_than_a_second(tmp_path: Path) -> None:
    _run("--help", home=tmp_path)
    seconds = []
    for _ in range(3):
        began = time.monotonic()  # noqa: TID251  # measures this machine
        _run("--help", home=tmp_path)
        seconds.append(time.monotonic() - began)  # noqa: TID251
    assert min(seconds) < 1.0


def test_compile_writes_the_pipeline(tmp_path: Path) -> None:
    done = _run("pipelines", "compile", "--out", str(tmp_path / "out"), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "training.yaml").is_file()


def test_decide_refuses_json_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([1]))
    done = _run("decide", str(tmp_path / "list.json"), home=tmp_path)
    assert done.returncode == 2
    assert "an object with `listing` and `images` is expected" in " ".join(done.stderr.split())
