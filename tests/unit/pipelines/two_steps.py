"""A pipeline of two steps for the tests of the local runner; what the steps do is told by files."""

from kfp import dsl

from components.base import component


@component
def first(folder: str, version: str, made: dsl.Output[dsl.Dataset]) -> None:
    """Count its own runs."""
    from pathlib import Path

    from moderation.settings import settings

    (Path(folder) / "accepts").write_text(settings().release_profile)
    runs = Path(folder) / "first.runs"
    runs.write_text((runs.read_text() if runs.exists() else "") + "x")
    Path(made.path).write_text("made")


@component
def second(folder: str, made: dsl.Input[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]) -> str:
    """Fail, hang or end, as the files in the folder say."""
    import time
    from pathlib import Path

    from components.outputs import log_metrics
    from components.progress import show_progress
    from moderation.errors import InvalidSnapshot

    show_progress(1, 2, "rows")
    (Path(folder) / "second.started").touch()
    if (Path(folder) / "fail").exists():
        raise InvalidSnapshot("no rows; import some")
    while (Path(folder) / "hang").exists():
        time.sleep(0.05)
    log_metrics(metrics, {"rows": 2})
    return Path(made.path).read_text()


@dsl.pipeline(name="two-steps")  # type: ignore[untyped-decorator]  # kfp has no types
def two_steps(folder: str, version: str = "1") -> str:
    """Make, then use."""
    made = first(folder=folder, version=version).set_retry(2, backoff_duration="20s")
    used = second(folder=folder, made=made.outputs["made"]).set_retry(2, backoff_duration="20s")
    return used.outputs["Output"]  # type: ignore[no-any-return]  # a placeholder for it
