"""Tuning: the same study from the same inputs, also when interrupted, and started from the day before."""

from pathlib import Path

import numpy as np
import optuna
import pytest

from components.tune.studies import study_digest
from moderation import tuning
from moderation.embedded_rows import EmbeddedRows
from moderation.errors import PermanentError
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.snapshot import Snapshot
from moderation.tuning import StudyPlan, tune
from tests.tiny_bundle import TinyRun

BASE = HeadsConfig(hidden=16, epochs=8, fusion="gated")
Trials = list[tuple[str, float | None, dict[str, object]]]


@pytest.fixture(scope="module")
def snapshot(tiny: TinyRun) -> Snapshot:
    return Snapshot.open(tiny.parts["heads"].parent / "snapshot")


@pytest.fixture(scope="module")
def rows(tiny: TinyRun) -> EmbeddedRows:
    return EmbeddedRows.open(tiny.parts["heads"].parent / "rows")


def _plan(folder: Path, name: str = "today", prior: str | None = None, num: int = 6) -> StudyPlan:
    return StudyPlan(f"sqlite:///{folder}/studies.sqlite", name, prior, num, 7)


def _trials(plan: StudyPlan) -> Trials:
    study = optuna.load_study(study_name=plan.name, storage=plan.url)
    return [(trial.state.name, trial.value, dict(trial.params)) for trial in study.trials]


@pytest.mark.parametrize("call", [0, 9, 20])
def test_study_is_the_same_when_it_was_interrupted(
    rows: EmbeddedRows,
    snapshot: Snapshot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
) -> None:
    plans = {}
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
        plans[name] = _plan(tmp_path / name, "today", "yesterday")
        tune(rows, snapshot, _plan(tmp_path / name, "yesterday", num=3), BASE)
    whole = tune(rows, snapshot, plans["whole"], BASE)
    judge = tuning._Objective.judge
    calls = iter(range(1000))

    def dies(objective: tuning._Objective, heads: ListingHeads) -> float:
        if next(calls) == call:
            raise KeyboardInterrupt
        return judge(objective, heads)

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Objective, "judge", dies)
        with pytest.raises(KeyboardInterrupt):
            tune(rows, snapshot, plans["parts"], BASE)
    parts = tune(rows, snapshot, plans["parts"], BASE)
    assert parts == whole
    assert _trials(plans["parts"]) == _trials(plans["whole"])
    digests = {study_digest(plan.url, plan.name) for plan in plans.values()}
    assert len(digests) == 1


def test_study_starts_with_the_base_and_the_best_of_its_prior(
    rows: EmbeddedRows, snapshot: Snapshot, tmp_path: Path
) -> None:
    first = tune(rows, snapshot, _plan(tmp_path, "yesterday"), BASE)
    second = tune(rows, snapshot, _plan(tmp_path, "today", "yesterday", num=3), BASE)
    yesterday, today = _trials(_plan(tmp_path, "yesterday")), _trials(_plan(tmp_path, "today"))
    assert today[0][2] == yesterday[0][2]
    best = max((t for t in yesterday if t[0] == "COMPLETE"), key=lambda t: t[1] or 0)
    assert best[2] in [parameters for _, _, parameters in today]
    assert first.model_dump(include=set(best[2])) == best[2]
    assert second.fusion == BASE.fusion


def test_best_is_no_worse_than_the_base(
    rows: EmbeddedRows, snapshot: Snapshot, tmp_path: Path
) -> None:
    tune(rows, snapshot, _plan(tmp_path, num=3), BASE)
    study = optuna.load_study(study_name="today", storage=_plan(tmp_path).url)
    assert study.best_value >= (study.trials[0].value or 1.0)


def test_tuning_says_so_when_the_prior_is_missing(
    rows: EmbeddedRows, snapshot: Snapshot, tmp_path: Path
) -> None:
    with pytest.raises(PermanentError, match="'no such day'"):
        tune(rows, snapshot, _plan(tmp_path, "today", "no such day"), BASE)


def test_base_is_kept_when_there_is_nothing_to_tune(
    rows: EmbeddedRows, snapshot: Snapshot, tmp_path: Path
) -> None:
    assert tune(rows, snapshot, _plan(tmp_path, num=0), BASE) == BASE
    assert not any(tmp_path.iterdir())


def test_sample_keeps_violations_when_rows_are_many() -> None:
    truth_NP = np.zeros((20_000, 2), np.int8)
    truth_NP[::40, 1] = 1
    sample = tuning._sample(np.arange(20_000), truth_NP, 3)
    assert len(sample) == len(set(sample.tolist())) == 4_096
    assert set(range(0, 20_000, 40)) <= set(sample.tolist())
