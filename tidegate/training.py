"""Commands around the training pipeline: run it here, compile it, submit it."""

from pathlib import Path

from components.home import Home
from components.judge.outcome import Outcome
from moderation.clock import SystemClock
from moderation.errors import PermanentError
from moderation.settings import Settings, settings
from pipelines.local import RunResult, run_training
from pipelines.parameters import Choices, for_submission, parameters
from tidegate.console import PipelineProgress, say, seconds


def with_policies(policies: Path | None) -> Settings:
    """Return the settings, with another policy file if one is given."""
    return settings().model_copy(update={"policy_file": policies}) if policies else settings()


def run(choices: Choices, config: Settings) -> RunResult:
    """Run the training pipeline with its progress on the console."""
    progress = PipelineProgress()
    try:
        return run_training(
            parameters(choices, config),
            on_step=progress,
            environment={"TIDEGATE__RELEASE_PROFILE": config.release_profile},
        )
    finally:
        progress.close()


def run_and_show(choices: Choices, *, policies: Path | None) -> None:
    """Run the training pipeline and say what came out, proposed or blocked, and where it lies."""
    from tidegate.gates import show_outcome  # mlflow takes seconds to import
    from tidegate.releasing import registry_of

    config = with_policies(policies)
    done = run(choices, config)
    home, digest = Home(config.home), done.outputs["digest"]
    say(f"bundle   {home.bundles / digest}")
    say(f"report   {home.reports / digest / 'report.html'}")
    say(f"registry version {done.outputs['registered_version']}")
    say(f"log      {done.log} ({seconds(sum(done.seconds.values()))} in steps)")
    version = registry_of(config).version_of(digest)
    outcome = Outcome.load(done.outputs["outcome"])
    show_outcome(outcome, config, aliases=version.aliases if version else ())


def compile_all(out: Path) -> None:
    """Write every pipeline's YAML below `out`."""
    from pipelines.compile import compile_training

    say(f"wrote {compile_training(out / 'training.yaml')}")


def submit_training(
    host: str, *, date: str | None, cron: str | None, profile: str, policies: Path | None
) -> None:
    """Submit the pipeline once for `date`, or on the schedule `cron`."""
    from pipelines.submit import submit_daily, submit_once

    if cron is None and date is None:
        raise PermanentError("say which run: --date 2026-11-20, or --daily")
    asked = for_submission(Choices(date or "", profile), with_policies(policies))
    if cron is not None:
        done = submit_daily(host, asked, cron=cron)
        say(f"scheduled {done.recurring_run_id} ({cron}), version {done.version_id}")
    else:
        done = submit_once(host, asked, SystemClock())
        say(f"started run {done.run_id}, version {done.version_id}")
