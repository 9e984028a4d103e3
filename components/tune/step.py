"""Embeddings -> hyperparameters, from a study that starts where an earlier day's ended."""

from dataclasses import dataclass
from pathlib import Path

from components.home import Home
from components.tune.studies import describe, study_digest, study_name, warm_start
from moderation.embedded_rows import EmbeddedRows
from moderation.profiles import profile_named
from moderation.snapshot import Snapshot
from moderation.tuning import StudyPlan, tune


@dataclass(frozen=True)
class StudyRequest:
    """Which study to run, and from which to start."""

    home: str
    study_url: str
    """Empty means SQLite below `home`."""

    prior_study: str
    """Name of a study, `auto` for the newest of an earlier date, empty for none."""

    logical_date: str
    profile: str
    num_trials: int
    seed: int


@dataclass(frozen=True)
class Done:
    """The study that was run."""

    study: str
    prior_study: str
    """Empty when it started from nothing."""

    prior_digest: str
    """Of what the prior study found out; part of the bundle's inputs."""


def run(
    table: str, embeddings: str, request: StudyRequest, version: str, *, out: str, report: str
) -> Done:
    """Write the chosen configuration to `out` and the trials to `report`.

    Raises:
        PermanentError: if the study storage cannot be read, or a named prior study is not there.
    """
    storage = request.study_url or Home(Path(request.home)).study_url
    name = study_name(request.profile, request.logical_date, version, request.seed)
    prior = warm_start(storage, request.prior_study, request.profile, request.logical_date)
    config = tune(
        EmbeddedRows.open(Path(embeddings)),
        Snapshot.open(Path(table)),
        StudyPlan(storage, name, prior, request.num_trials, request.seed),
        profile_named(request.profile).heads,
    )
    for path, text in (
        (Path(out), config.model_dump_json(indent=1)),
        (Path(report), describe(storage, name, prior)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Done(name, prior or "", study_digest(storage, prior) if prior else "")
