"""Tuning of the heads on cached embeddings: a study that starts from the previous day's best trials.

A trial fits heads only, by a bare loop, and is stopped early when it lags behind the median; so it costs a small
part of a training run. The same rows, plan and seed give the same study: each trial draws from a generator seeded by
how many have finished before it, and a study that was interrupted within a trial begins again.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, TrialState
from sklearn.metrics import average_precision_score

from moderation.embedded_rows import EmbeddedRows
from moderation.errors import PermanentError
from moderation.fitting import fit_task, make_task, score_heads
from moderation.network import ListingHeads
from moderation.profiles import HeadsConfig
from moderation.sampling import Teaching
from moderation.snapshot import Snapshot

_LOG: Final = logging.getLogger(__name__)

_SPACE: Final[dict[str, BaseDistribution]] = {
    "head": CategoricalDistribution(["linear", "mlp"]),
    "hidden": CategoricalDistribution([16, 32, 64, 128]),
    "dropout": FloatDistribution(0.0, 0.6),
    "learning_rate": FloatDistribution(5e-4, 1e-2, log=True),
    "weight_decay": FloatDistribution(1e-2, 3.0, log=True),
    "epochs": IntDistribution(8, 32),
    "view_mix": FloatDistribution(0.0, 0.8),
    "modality_dropout": FloatDistribution(0.0, 0.4),
}
_FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED)
_INHERITED: Final = 3
# Schedules differ in length, so trials are compared at tenths of their own schedule.
_RUNGS: Final = 10
_FIRST_RUNG: Final = 3
_STARTUP_TRIALS: Final = 5
# Ranking settings needs fewer rows than fitting the final heads does.
_MAX_FIT_ROWS: Final = 4_096


@dataclass(frozen=True)
class StudyPlan:
    """Which study to run, where it is kept, and what it starts from."""

    url: str
    """Storage, such as sqlite:///studies.sqlite."""

    name: str
    prior: str | None = None
    """Study whose best trials are tried first; None or empty starts without."""

    num_trials: int = 12
    seed: int = 17


@dataclass(frozen=True)
class _Objective:
    """Mean weighted average precision of the three heads on rows that the fit did not see."""

    rows: EmbeddedRows
    fit_R: npt.NDArray[np.int64]
    judge_R: npt.NDArray[np.int64]
    taught: Teaching
    seed: int

    def value(self, trial: Trial, config: HeadsConfig) -> float:
        """Return the trial's value; raises TrialPruned when it lags behind."""
        task = make_task(self.rows, self.fit_R, self.taught, config, self.seed)
        values: list[float] = []

        def judge(epoch: int, heads: ListingHeads) -> None:
            step, before = ((done * _RUNGS // config.epochs) for done in (epoch + 1, epoch))
            if step == before or step < _FIRST_RUNG:
                return
            values.append(self.judge(heads))
            trial.report(values[-1], step)
            if trial.should_prune():
                raise optuna.TrialPruned

        fit_task(task, judge)
        return values[-1]

    def judge(self, heads: ListingHeads) -> float:
        """Return the mean over heads and policies that can be judged; 0 where none can."""
        signals = score_heads(heads, self.rows, self.judge_R)
        truth_RP = self.taught.truth_NP[self.judge_R]
        weight_R = self.taught.weight_N[self.judge_R]
        precisions = []
        for logits_RP in (signals.image_RP, signals.text_RP, signals.fusion_both_RP):
            for logits_R, truth_R in zip(logits_RP.T, truth_RP.T, strict=True):
                known_R = np.isfinite(logits_R) & (truth_R >= 0)
                if (truth_R[known_R] == 1).any():
                    precisions.append(
                        average_precision_score(
                            truth_R[known_R],
                            logits_R[known_R],
                            sample_weight=weight_R[known_R],
                        )
                    )
        return float(np.mean(precisions)) if precisions else 0.0


def tune(rows: EmbeddedRows, snapshot: Snapshot, plan: StudyPlan, base: HeadsConfig) -> HeadsConfig:
    """Return the best heads configuration of the study; `base` where nothing can be compared.

    Trials are judged on rows of role `tune`; where the data declares its own split there are none, and the last fold
    of the train rows judges instead.

    Args:
        rows: embeddings of the snapshot.
        snapshot: gives truth, weights and roles.
        plan: the study; one that exists is continued up to `num_trials`, one that was interrupted within a trial is
            deleted and begun again. One process runs a study at a time.
        base: the profile's configuration, tried first, and the value of whatever is not searched.

    Raises:
        PermanentError: if the prior study does not exist.
    """
    objective = _objective(rows, snapshot, plan.seed)
    if plan.num_trials < 1 or not (objective.taught.truth_NP[objective.judge_R] == 1).any():
        _LOG.warning("nothing to tune on: no trial or no violation among the rows that judge")
        return base
    study = _open_study(plan, base)
    while (num_done := len(study.get_trials(deepcopy=False, states=_FINISHED))) < plan.num_trials:
        study.sampler = _sampler(plan.seed + num_done)
        trial = study.ask(_SPACE)
        config = base.model_copy(update=trial.params)
        try:
            study.tell(trial, objective.value(trial, config))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        _LOG.info("trial finished", extra={"study": plan.name, "trial": trial.number})
    return base.model_copy(update=study.best_params)


def _objective(rows: EmbeddedRows, snapshot: Snapshot, seed: int) -> _Objective:
    role_N, fold_N = snapshot.role, snapshot.fold
    is_train_N, is_judge_N = role_N == "train", role_N == "tune"
    if not is_judge_N.any():
        is_judge_N = is_train_N & (fold_N == fold_N.max())
        is_train_N &= ~is_judge_N
    fit_R = np.flatnonzero(is_train_N)
    taught = Teaching.of(snapshot)
    if len(fit_R) > _MAX_FIT_ROWS:
        fit_R = _sample(fit_R, taught.truth_NP, seed)
    return _Objective(rows, fit_R, np.flatnonzero(is_judge_N), taught, seed)


def _sample(
    fit_R: npt.NDArray[np.int64], truth_NP: npt.NDArray[np.int8], seed: int
) -> npt.NDArray[np.int64]:
    """Return at most `_MAX_FIT_ROWS` rows, violating ones first, at most half of all."""
    shuffled = np.random.default_rng(seed).permutation(fit_R)
    is_violating = (truth_NP[shuffled] == 1).any(1)
    violating = shuffled[is_violating][: _MAX_FIT_ROWS // 2]
    others = shuffled[~is_violating][: _MAX_FIT_ROWS - len(violating)]
    return np.sort(np.concatenate([violating, others]))


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=_STARTUP_TRIALS, multivariate=True, constant_liar=False
    )


def _open_study(plan: StudyPlan, base: HeadsConfig) -> optuna.Study:
    """Return the study, new with its first trials in line, or as far as it got between trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    inherited = _best_of_prior(plan)
    _delete_if_interrupted(plan)
    study = optuna.create_study(
        storage=plan.url,
        study_name=plan.name,
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS - 1, n_warmup_steps=_FIRST_RUNG),
    )
    trials = study.get_trials(deepcopy=False)
    tried = [trial.params or trial.system_attrs.get("fixed_params") for trial in trials]
    for parameters in [_searched(base), *inherited]:
        if parameters not in tried:
            study.enqueue_trial(parameters)
            tried.append(parameters)
    return study


def _delete_if_interrupted(plan: StudyPlan) -> None:
    """Delete the study where a trial of it never finished; in another place in line it would end differently."""
    try:
        study = optuna.load_study(study_name=plan.name, storage=plan.url)
    except KeyError:
        return
    if study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.FAIL)):
        _LOG.warning("study was interrupted and begins again", extra={"study": plan.name})
        optuna.delete_study(study_name=plan.name, storage=plan.url)


def _searched(config: HeadsConfig) -> dict[str, Any]:
    """Return the searched part of a configuration, moved into the space where it lies outside."""
    values = config.model_dump(include=set(_SPACE))
    for name, space in _SPACE.items():
        if isinstance(space, FloatDistribution | IntDistribution):
            values[name] = min(max(values[name], space.low), space.high)
        elif isinstance(space, CategoricalDistribution) and values[name] not in space.choices:
            values[name] = space.choices[-1]
    return {name: values[name] for name in _SPACE}


def _best_of_prior(plan: StudyPlan) -> list[dict[str, Any]]:
    if not plan.prior or plan.prior == plan.name:
        return []
    try:
        study = optuna.load_study(study_name=plan.prior, storage=plan.url)
    except KeyError as error:
        raise PermanentError(
            f"the prior study {plan.prior!r} is not in {plan.url}; name one that is, or none"
        ) from error
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    ranked = sorted(done, key=lambda trial: (-(trial.value or 0.0), trial.number))
    return [
        {name: trial.params[name] for name in _SPACE}
        for trial in ranked
        if set(trial.params) == set(_SPACE)
    ][:_INHERITED]
