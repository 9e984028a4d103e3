"""Gradient-boosted trees on seller behaviour, one booster per policy. The only importer of LightGBM."""

import ctypes
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.errors import BundleRejected, InvalidSnapshot, PermanentError
from moderation.features import FEATURE_NAMES

FORMAT: Final = 1
_INFO_FILE: Final = "behaviour.json"

Floats = npt.NDArray[np.float64]

_MAX_ROUNDS: Final = 200
_NUM_FOLDS: Final = 3
_MIN_CLASS_ROWS: Final = 8  # below it no split could be told from chance: the base rate answers

# Small, slow trees: a policy has hundreds of positives, not millions. Column- and row-wise
# histograms differ in rounding, so that one of them is forced.
_PARAMETERS: Final[Mapping[str, Any]] = {
    "objective": "binary",
    "metric": "binary_logloss",
    "learning_rate": 0.06,
    "num_leaves": 8,
    "max_depth": 4,
    "min_data_in_leaf": 10,
    "min_sum_hessian_in_leaf": 1.0,
    "lambda_l2": 5.0,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "feature_fraction": 0.7,
    "max_bin": 63,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class BoostingModel:
    """One booster per policy, or a constant where a policy had too little truth."""

    model_texts: tuple[str | None, ...]
    """LightGBM's text form; None answers with the shift alone."""

    shift_P: Floats
    """Log-odds that take a booster from balanced classes to the weighted base rate."""

    @cached_property
    def _boosters(self) -> list[Any]:
        return [None if text is None else _booster(text) for text in self.model_texts]

    def logits(self, behaviour_NF: npt.NDArray[np.float32]) -> Floats:
        """Return the log-odds of a violation per listing and policy, at the prevalence of the weights.

        Safe to call from many threads; a row does not depend on its batch.

        Args:
            behaviour_NF: features in the order of `FEATURE_NAMES`, NaN where missing.

        Returns:
            logits_NP; a row without any feature is NaN, for its modality is missing.
        """
        if behaviour_NF.ndim != 2 or behaviour_NF.shape[1] != len(FEATURE_NAMES):
            raise InvalidSnapshot(
                f"behaviour has shape {behaviour_NF.shape}, expected (N, {len(FEATURE_NAMES)})"
            )
        logits_NP = np.full((len(behaviour_NF), len(self.shift_P)), np.nan)
        rows = np.flatnonzero(~np.isnan(behaviour_NF).all(axis=1))
        if not len(rows):
            return logits_NP
        logits_NP[rows] = self.shift_P
        features_RF = np.ascontiguousarray(behaviour_NF[rows], np.float64)
        for column, booster in enumerate(self._boosters):
            if booster is not None:
                logits_NP[rows, column] += booster.predict(
                    features_RF, raw_score=True, num_threads=1
                )
        return logits_NP

    def contributions(
        self, behaviour_F: npt.NDArray[np.float32], policy: int
    ) -> tuple[Floats, float]:
        """Return what each feature adds to one policy's logit, and the base that they start from.

        Args:
            behaviour_F: as a row of `logits`, with at least one feature.
            policy: column of the policy.

        Source:
            Lundberg et al. 2018, "Consistent Individualized Feature Attribution for Tree Ensembles".
        """
        shift, booster = float(self.shift_P[policy]), self._boosters[policy]
        if booster is None:
            return np.zeros(len(behaviour_F)), shift
        row_1F = np.ascontiguousarray(behaviour_F[None], np.float64)
        found = booster.predict(row_1F, pred_contrib=True, num_threads=1)[0]
        return found[:-1], float(found[-1]) + shift

    def save(self, folder: Path, policy_ids: tuple[str, ...]) -> None:
        """Write `<policy>.txt` per booster and `behaviour.json`; the same model gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        for policy, text in zip(policy_ids, self.model_texts, strict=True):
            if text is not None:
                (folder / f"{policy}.txt").write_text(text)
        info = self.describe(policy_ids)
        (folder / _INFO_FILE).write_text(json.dumps(info, indent=1, sort_keys=True))

    def describe(self, policy_ids: tuple[str, ...]) -> dict[str, Any]:
        """Return what `parse` needs beside the text of each booster: plain JSON values."""
        return {
            "format": FORMAT,
            "features": list(FEATURE_NAMES),
            "policies": [
                {"id": policy, "shift": float(shift), "constant": text is None}
                for policy, shift, text in zip(
                    policy_ids, self.shift_P, self.model_texts, strict=True
                )
            ],
        }

    @classmethod
    def load(cls, folder: Path) -> "BoostingModel":
        """Return the model in `folder`.

        Raises:
            BundleRejected: if a file is missing or damaged, or was trained on other features.
        """
        try:
            info = json.loads((folder / _INFO_FILE).read_text())
            return cls.parse(info, lambda policy: (folder / f"{policy}.txt").read_text())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleRejected(f"{folder}: no readable behaviour model: {error}") from error

    @classmethod
    def parse(cls, info: Any, text_of: Callable[[str], str]) -> "BoostingModel":
        """Return the model that `describe` described.

        Args:
            info: what `describe` gave.
            text_of: gives the text of a policy's booster.

        Raises:
            ValueError, KeyError, TypeError: if it is damaged, or was trained on other features.
        """
        if info["format"] != FORMAT or tuple(info["features"]) != FEATURE_NAMES:
            raise ValueError("it has another format or other features")
        entries = info["policies"]
        texts = tuple(None if entry["constant"] else text_of(entry["id"]) for entry in entries)
        model = cls(texts, np.array([entry["shift"] for entry in entries], np.float64))
        _ = model._boosters  # built here, so that damage shows now
        return model


def fit_boosting(
    behaviour_NF: npt.NDArray[np.float32],
    truth_NP: npt.NDArray[np.int8],
    weight_N: Floats,
    group_N: npt.NDArray[np.int64],
    *,
    seed: int,
    num_threads: int,
) -> BoostingModel:
    """Return boosters whose number of trees was chosen by cross-validation over groups.

    The classes count alike in training; the log-odds of the weighted base rate are added
    afterwards. The same input, seed and number of threads give the same model.

    Args:
        behaviour_NF: NaN where missing; rows without any feature are left out.
        truth_NP: 1 violates, 0 does not, -1 unknown (left out).
        weight_N: inverse inclusion probabilities.
        group_N: seller and campaign; one group is never on both sides of a fold.
        seed: of bagging and folds.
        num_threads: of LightGBM; part of what determines the result.
    """
    present_N = ~np.isnan(behaviour_NF).all(axis=1)
    parameters = {**_PARAMETERS, "seed": seed, "num_threads": num_threads}
    texts: list[str | None] = []
    shifts = []
    for truth_N in truth_NP.T:
        rows = np.flatnonzero(present_N & (truth_N >= 0))
        truth_R, weight_R = truth_N[rows], weight_N[rows]
        shifts.append(_log_odds(truth_R, weight_R))
        if min((truth_R == 1).sum(), (truth_R == 0).sum()) < _MIN_CLASS_ROWS:
            texts.append(None)
            continue
        fold_R = _folds(group_N[rows], seed)
        texts.append(
            _fit_one(behaviour_NF[rows], truth_R, _balanced(truth_R, weight_R), fold_R, parameters)
        )
    return BoostingModel(tuple(texts), np.array(shifts))


def _fit_one(
    features_RF: npt.NDArray[np.float32],
    truth_R: npt.NDArray[np.int8],
    weight_R: Floats,
    fold_R: npt.NDArray[np.int64],
    parameters: Mapping[str, Any],
) -> str | None:
    """Return the booster's text, or None where cross-validation sees nothing better than a constant."""
    lightgbm = _lightgbm()
    curves = []
    for fold in range(_NUM_FOLDS):
        inside, outside = fold_R != fold, fold_R == fold
        if any(len(np.unique(truth_R[part])) < 2 for part in (inside, outside)):
            continue
        curves.append(_held_out_loss(features_RF, truth_R, weight_R, inside, parameters))
    num_rounds = int(np.mean(curves, axis=0).argmin()) if curves else _MAX_ROUNDS // 4
    if num_rounds == 0:
        return None
    data = _dataset(features_RF, truth_R, weight_R)
    booster = lightgbm.train(dict(parameters), data, num_boost_round=num_rounds)
    text: str = booster.model_to_string()
    return text


def _held_out_loss(
    features_RF: npt.NDArray[np.float32],
    truth_R: npt.NDArray[np.int8],
    weight_R: Floats,
    inside_R: npt.NDArray[np.bool_],
    parameters: Mapping[str, Any],
) -> list[float]:
    """Return the loss on the rows outside after 0, 1, 2, ... trees grown on those inside."""
    lightgbm = _lightgbm()
    data = _dataset(features_RF[inside_R], truth_R[inside_R], weight_R[inside_R])
    held_out = lightgbm.Dataset(
        features_RF[~inside_R].astype(np.float64),
        truth_R[~inside_R],
        weight=weight_R[~inside_R],
        reference=data,
        free_raw_data=False,
    )
    history: dict[str, dict[str, list[float]]] = {}
    lightgbm.train(
        dict(parameters),
        data,
        num_boost_round=_MAX_ROUNDS,
        valid_sets=[held_out],
        valid_names=["held_out"],
        callbacks=[lightgbm.record_evaluation(history)],
    )
    without_trees = float(np.log(2))  # balanced classes
    return [without_trees, *history["held_out"]["binary_logloss"]]


def _dataset(
    features_RF: npt.NDArray[np.float32], truth_R: npt.NDArray[np.int8], weight_R: Floats
) -> Any:
    names = list(FEATURE_NAMES)
    return _lightgbm().Dataset(
        features_RF.astype(np.float64),
        truth_R,
        weight=weight_R,
        feature_name=names,
        free_raw_data=False,
    )


def _folds(group_R: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    groups, member_R = np.unique(group_R, return_inverse=True)
    fold_G = np.random.default_rng(seed).permutation(len(groups)) % _NUM_FOLDS
    return fold_G[member_R].astype(np.int64)


def _balanced(truth_R: npt.NDArray[np.int8], weight_R: Floats) -> Floats:
    """Return weights under which each class sums to the number of positives."""
    balanced_R = weight_R.copy()
    num_positives = int((truth_R == 1).sum())
    for value in (0, 1):
        chosen = truth_R == value
        balanced_R[chosen] *= num_positives / weight_R[chosen].sum()
    return balanced_R


def _log_odds(truth_R: npt.NDArray[np.int8], weight_R: Floats) -> float:
    positive = max(float(weight_R[truth_R == 1].sum()), 0.5)
    negative = max(float(weight_R[truth_R == 0].sum()), 0.5)
    return float(np.log(positive / negative))


def _booster(text: str) -> Any:
    lightgbm = _lightgbm()
    try:
        return lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise ValueError(f"LightGBM cannot read the trees: {error}") from error


@lru_cache(maxsize=1)
def _lightgbm() -> ModuleType:
    """Return LightGBM, whose import takes seconds: not at import of this module."""
    _load_openmp()
    return importlib.import_module("lightgbm")


def _load_openmp() -> None:
    """Make libgomp known to the process before LightGBM asks for it; a bare Debian has none.

    Raises:
        PermanentError: if neither the system nor an installed torch brings the library.
    """
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError:
        spec = importlib.util.find_spec("torch")  # locates it without importing it
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        try:
            ctypes.CDLL(str(Path(folder) / "lib" / "libgomp.so.1"), mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue
    raise PermanentError(
        "LightGBM needs libgomp.so.1, which neither the system nor torch has: install libgomp1"
    )
