"""Studies by name: which one a day runs, which earlier one it starts from, and what a study held."""

import hashlib
import json
from typing import Final

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from moderation.errors import PermanentError

AUTO: Final = "auto"


def study_name(profile: str, logical_date: str, version: str, seed: int) -> str:
    """Return the name of a day's study; other data, code, settings or seed give another one."""
    digest = hashlib.sha256(f"{version}:{seed}".encode()).hexdigest()
    return f"{profile}/{logical_date}/{digest[:12]}"


def warm_start(storage: str, asked: str, profile: str, logical_date: str) -> str | None:
    """Return the study to start from: the named one, none, or the newest of an earlier logical date.

    Raises:
        PermanentError: if the storage cannot be read.
    """
    if asked != AUTO:
        return asked or None
    try:
        names = optuna.get_all_study_names(storage)
    except (OptunaError, SQLAlchemyError) as error:
        raise PermanentError(f"study storage {storage}: {error}") from error
    earlier = [
        (date, order, name)
        for order, name in enumerate(names)
        for kind, date, _ in [name.rsplit("/", 2)]
        if kind == profile and date < logical_date
    ]
    return max(earlier)[2] if earlier else None


def study_digest(storage: str, name: str) -> str:
    """Return a digest of what a study found out; the same completed trials in the same order give the same one."""
    trials = [
        (trial.params, trial.value)
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
        if trial.state == TrialState.COMPLETE
    ]
    return hashlib.sha256(json.dumps(trials, sort_keys=True).encode()).hexdigest()


def describe(storage: str, name: str, prior: str | None) -> str:
    """Return the trials of a study as a table for a person."""
    lines = [f"# Study {name}", "", f"Started from: {prior or 'nothing'}", ""]
    if name not in optuna.get_all_study_names(storage):
        return "\n".join([*lines, "No trial was run: the profile's own settings hold.", ""])
    trials = optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    trials.sort(key=_rank)
    parameters = sorted({key for trial in trials for key in trial.params})
    lines += [
        f"| trial | state | value | {' | '.join(parameters)} |",
        f"| ---: | --- | ---: |{' ---: |' * len(parameters)}",
        *(_line(trial, parameters) for trial in trials),
    ]
    return "\n".join(lines) + "\n"


def _rank(trial: FrozenTrial) -> tuple[bool, float, int]:
    is_complete = trial.state == TrialState.COMPLETE
    return not is_complete, -(trial.value or 0.0) if is_complete else 0.0, trial.number


def _line(trial: FrozenTrial, parameters: list[str]) -> str:
    value = "-" if trial.value is None else f"{trial.value:.4f}"
    shown = [_show(trial.params.get(name)) for name in parameters]
    return f"| {trial.number} | {trial.state.name.lower()} | {value} | {' | '.join(shown)} |"


def _show(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
