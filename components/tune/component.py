"""Choose hyperparameters on cached embeddings."""

from kfp import dsl

from components.base import component


@component
def tune(
    table: dsl.Input[dsl.Dataset],
    embeddings: dsl.Input[dsl.Dataset],
    home: str,
    profile: str,
    logical_date: str,
    study_url: str,
    prior_study: str,
    num_trials: int,
    seed: int,
    version: str,
    config: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.Markdown],
) -> None:
    """Run a study that starts from the previous day's best trials."""
    import dataclasses

    from components.tune import step

    request = step.StudyRequest(
        home, study_url, prior_study, logical_date, profile, num_trials, seed
    )
    done = step.run(
        table.path, embeddings.path, request, version, out=config.path, report=report.path
    )
    config.metadata.update(dataclasses.asdict(done), version=version)
