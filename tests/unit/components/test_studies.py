from pathlib import Path

import optuna
import pytest

from components.tune.studies import describe, study_digest, study_name, warm_start
from moderation.errors import PermanentError


@pytest.fixture
def storage(tmp_path: Path) -> str:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return f"sqlite:///{tmp_path / 'studies.sqlite'}"


def _study(storage: str, name: str, values: tuple[float, ...] = (0.5,)) -> None:
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    for value in values:
        trial = study.ask({"width": optuna.distributions.FloatDistribution(0, 1)})
        study.tell(trial, value)


def test_study_name_depends_on_everything_that_changes_it() -> None:
    name = study_name("small", "2026-11-20", "data:code:config", 17)
    assert name.startswith("small/2026-11-20/")
    assert name == study_name("small", "2026-11-20", "data:code:config", 17)
    assert name != study_name("small", "2026-11-20", "data:code:other", 17)
    assert name != study_name("small", "2026-11-20", "data:code:config", 18)


def test_warm_start_takes_the_newest_earlier_day(storage: str) -> None:
    for name in (
        "small/2026-11-18/a",
        "small/2026-11-19/b",
        "small/2026-11-20/c",
        "tiny/2026-11-19/d",
    ):
        _study(storage, name)
    assert warm_start(storage, "auto", "small", "2026-11-20") == "small/2026-11-19/b"
    assert warm_start(storage, "auto", "tiny", "2026-11-20") == "tiny/2026-11-19/d"
    assert warm_start(storage, "auto", "small", "2026-11-18") is None


def test_warm_start_takes_the_named_study_or_none(storage: str) -> None:
    assert warm_start(storage, "mine", "small", "2026-11-20") == "mine"
    assert warm_start(storage, "", "small", "2026-11-20") is None


def test_warm_start_says_when_the_storage_is_gone() -> None:
    with pytest.raises(PermanentError, match="study storage"):
        warm_start("sqlite:////nowhere/at/all.sqlite", "auto", "small", "2026-11-20")


def test_study_digest_follows_what_was_found(storage: str) -> None:
    _study(storage, "a", (0.5, 0.75))
    before = study_digest(storage, "a")
    assert before == study_digest(storage, "a")
    study = optuna.load_study(study_name="a", storage=storage)
    study.tell(study.ask(), 0.9)
    assert study_digest(storage, "a") != before


def test_study_digest_is_the_same_when_a_trial_failed(storage: str) -> None:
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "width": optuna.distributions.FloatDistribution(0, 1)
    }
    for name in ("whole", "failed"):
        study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
        if name == "failed":
            study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial({"width": 0.5})
        study.tell(study.ask(space), 0.75)
    assert study_digest(storage, "failed") == study_digest(storage, "whole")


def test_describe_ranks_the_trials(storage: str) -> None:
    _study(storage, "a", (0.25, 0.75))
    text = describe(storage, "a", "yesterday")
    assert "Started from: yesterday" in text
    assert text.index("0.7500") < text.index("0.2500")


def test_describe_says_when_no_trial_was_run(storage: str) -> None:
    assert "No trial was run" in describe(storage, "a", None)
