"""The text specialist: a linear model on hashed n-grams.

It reads languages that the encoder does not know, and words that are spelt to be missed. Training
and serving both call it with the texts and signs of one normalisation. Axes: N rows, P policies, D kept
features.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import optimize, sparse

from moderation.errors import BundleRejected, InvalidSnapshot
from moderation.ngram_features import HASH_BITS, hash_features
from moderation.text import SIGNS, NgramText

FORMAT: Final = 2
"""Raised when the features' meaning changes: weights of another format do not load."""

_WEIGHTS_FILE: Final = "ngram.safetensors"
_INFO_FILE: Final = "ngram.json"

_MAX_POSITIVES: Final = 6_000  # rows in memory stay bounded: about 10 kB each
_NEGATIVES_PER_POSITIVE: Final = 2
_MIN_NEGATIVES: Final = 4_000
_BATCH_ROWS: Final = 1_024
_MIN_ROWS_WITH_FEATURE: Final = 2  # what occurs once cannot generalise
_RIDGE: Final = 0.1
_ITERATIONS: Final = 30
_ENOUGH: Final = 1e-4  # relative gain per step: later digits rank nothing otherwise
_PRUNE_BELOW: Final = 2e-3  # a logit sums some 2,000 of them, each times 1/sqrt(2000)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class NgramModel:
    """Weights of the kept buckets; rows of `weights_DP` follow `bucket_D`, ascending."""

    bucket_D: npt.NDArray[np.int32]
    weights_DP: npt.NDArray[np.float32]
    intercept_P: Floats

    @cached_property
    def _slot(self) -> npt.NDArray[np.int32]:
        """Bucket -> row of `_table`; row 0 holds the buckets without weight."""
        slot = np.zeros(2**HASH_BITS, np.int32)
        slot[self.bucket_D] = np.arange(1, len(self.bucket_D) + 1)
        return slot

    @cached_property
    def _table(self) -> Floats:
        return np.concatenate([np.zeros((1, self.weights_DP.shape[1])), self.weights_DP])

    def logits(self, texts: Sequence[NgramText]) -> Floats:
        """Return the log-odds of a violation per listing and policy, at the prevalence of the weights.

        Args:
            texts: of each listing, by `ngram_texts`.

        Returns:
            logits_NP; a row does not depend on its batch.
        """
        logits_NP = np.empty((len(texts), len(self.intercept_P)))
        for begin in range(0, len(texts), _BATCH_ROWS):
            hashed = hash_features(texts[begin : begin + _BATCH_ROWS])
            logits_NP[begin : begin + _BATCH_ROWS] = self.logits_of(hashed)
        return logits_NP

    def logits_of(self, features: sparse.csr_matrix) -> Floats:
        """Return logits_NP of features that `hash_features` gave: hashed once, read by many models."""
        parts = (features.data, self._slot[features.indices], features.indptr)
        compact = sparse.csr_matrix(parts, shape=(features.shape[0], len(self._table)))
        logits_NP: Floats = compact @ self._table + self.intercept_P
        return logits_NP

    def weights_of(self, bucket_G: npt.NDArray[np.int64], policy: int) -> Floats:
        """Return the weight of each bucket under one policy, 0 of those that were not kept."""
        weight_G: Floats = self._table[self._slot[bucket_G], policy]
        return weight_G

    def save(self, folder: Path) -> None:
        """Write `ngram.safetensors` and `ngram.json`; the same model gives the same bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"bucket": self.bucket_D, "weights": self.weights_DP}
        save_file(tensors, folder / _WEIGHTS_FILE)
        info = {
            "format": FORMAT,
            "hash_bits": HASH_BITS,
            "intercept": self.intercept_P.tolist(),
            "signs": SIGNS,
        }
        (folder / _INFO_FILE).write_text(json.dumps(info, indent=1, sort_keys=True))

    @classmethod
    def load(cls, folder: Path) -> "NgramModel":
        """Return the model in `folder`.

        Raises:
            BundleRejected: if a file is missing, damaged or of another format.
        """
        try:
            info = json.loads((folder / _INFO_FILE).read_text())
            tensors = load_file(folder / _WEIGHTS_FILE)
            model = cls._checked(info, tensors)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise BundleRejected(f"{folder}: no readable n-gram model: {error}") from error
        return model

    @classmethod
    def _checked(cls, info: dict[str, Any], tensors: dict[str, npt.NDArray[Any]]) -> "NgramModel":
        if (info["format"], info["hash_bits"]) != (FORMAT, HASH_BITS):
            raise ValueError(f"format {info['format']}, {info['hash_bits']} bits are not ours")
        if tuple(info["signs"]) != SIGNS:
            raise ValueError(f"its signs are {info['signs']}, those of the text are {SIGNS}")
        intercept_P = np.array(info["intercept"], np.float64)
        bucket_D, weights_DP = tensors["bucket"], tensors["weights"]
        if weights_DP.shape != (len(bucket_D), len(intercept_P)):
            raise ValueError(f"weights of shape {weights_DP.shape} do not fit their buckets")
        return cls(bucket_D.astype(np.int32), weights_DP.astype(np.float32), intercept_P)


def fit_ngram(
    texts: Iterable[NgramText],
    truth_NP: npt.NDArray[np.int8],
    weight_N: Floats,
    *,
    seed: int,
    emphasis_N: Floats | None = None,
) -> NgramModel:
    """Return the model fitted on all positives and a bounded sample of negatives.

    Both classes count alike in training; afterwards the intercept is moved by the log-odds of the
    weighted base rate, so that logits are at deployment prevalence.

    Args:
        texts: of each row, by `ngram_texts`, in order; read once, in batches.
        truth_NP: 1 violates, 0 does not, -1 unknown (left out).
        weight_N: inverse inclusion probabilities.
        seed: decides which rows are kept where there are too many.
        emphasis_N: how many times as much a row counts within its class, as if it were drawn so often; None: no row
            more than another. The base rate is that of the weights alone.

    Raises:
        InvalidSnapshot: if texts and truth disagree in length.
    """
    kept_N, scale_N = _sample(truth_NP, seed)
    if emphasis_N is not None:
        scale_N *= emphasis_N
    matrix = _stack(texts, kept_N)
    truth_KP, weight_K = truth_NP[kept_N], (weight_N * scale_N)[kept_N]
    active = np.flatnonzero(
        np.bincount(matrix.indices, minlength=2**HASH_BITS) >= _MIN_ROWS_WITH_FEATURE
    )
    compact = matrix[:, active].astype(np.float64)
    weights_DP, intercept_P = _minimise(compact, truth_KP, _balanced(truth_KP, weight_K))
    intercept_P += _log_odds(truth_NP, weight_N)
    kept_D = (np.abs(weights_DP) >= _PRUNE_BELOW).any(axis=1)
    return NgramModel(
        active[kept_D].astype(np.int32), weights_DP[kept_D].astype(np.float32), intercept_P
    )


def _sample(
    truth_NP: npt.NDArray[np.int8], seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Return which rows to keep, and by what their weights grow to stand for the others."""
    rng = np.random.default_rng(seed)
    positive_N = (truth_NP == 1).any(axis=1)
    negative_N = ~positive_N & (truth_NP == 0).any(axis=1)
    kept_N, scale_N = np.zeros(len(truth_NP), bool), np.ones(len(truth_NP))
    num_positives = min(int(positive_N.sum()), _MAX_POSITIVES)
    num_negatives = max(_MIN_NEGATIVES, _NEGATIVES_PER_POSITIVE * num_positives)
    for class_N, most in ((positive_N, num_positives), (negative_N, num_negatives)):
        rows = np.flatnonzero(class_N)
        if len(rows) > most:
            scale_N[rows] = len(rows) / most
            rows = rng.choice(rows, most, replace=False)
        kept_N[rows] = True
    return kept_N, scale_N


def _stack(texts: Iterable[NgramText], kept_N: npt.NDArray[np.bool_]) -> sparse.csr_matrix:
    """Return the features of the kept rows; the others are read and dropped."""
    parts, begin, stream = [], 0, iter(texts)
    for batch in iter(lambda: list(islice(stream, _BATCH_ROWS)), []):
        chosen = kept_N[begin : begin + len(batch)]
        begin += len(batch)
        parts.append(hash_features(list(_chosen(batch, chosen))))
    if begin != len(kept_N):
        raise InvalidSnapshot(f"{begin} texts came for {len(kept_N)} rows of truth")
    return sparse.vstack(parts or [hash_features([])], format="csr")


def _chosen(batch: Sequence[NgramText], chosen: npt.NDArray[np.bool_]) -> Iterator[NgramText]:
    return (text for text, is_kept in zip(batch, chosen, strict=False) if is_kept)


def _balanced(truth_KP: npt.NDArray[np.int8], weight_K: Floats) -> Floats:
    """Return weights under which each class sums to the number of positives; unknown rows get none."""
    weight_KP = np.zeros(truth_KP.shape)
    for column in range(truth_KP.shape[1]):
        num = max(1, int((truth_KP[:, column] == 1).sum()))
        for value in (0, 1):
            chosen = truth_KP[:, column] == value
            weight_KP[chosen, column] = weight_K[chosen] * num / max(weight_K[chosen].sum(), 1e-300)
    return weight_KP


def _log_odds(truth_NP: npt.NDArray[np.int8], weight_N: Floats) -> Floats:
    """Return the weighted log-odds of the base rate; half a row stands for a class that is not there."""
    positive_P = weight_N @ (truth_NP == 1)
    negative_P = weight_N @ (truth_NP == 0)
    log_odds_P: Floats = np.log(np.maximum(positive_P, 0.5) / np.maximum(negative_P, 0.5))
    return log_odds_P


def _minimise(
    features_KD: sparse.csr_matrix, truth_KP: npt.NDArray[np.int8], weight_KP: Floats
) -> tuple[Floats, Floats]:
    """Return weights_DP and intercept_P of the ridge-penalised logistic loss of all policies at once."""
    num_features, num_policies = features_KD.shape[1], truth_KP.shape[1]
    sign_KP = np.where(truth_KP == 1, 1.0, -1.0)
    transposed = features_KD.T.tocsr()

    def loss(flat: Floats) -> tuple[float, Floats]:
        table = flat.reshape(num_features + 1, num_policies)
        margin_KP = sign_KP * (features_KD @ table[:-1] + table[-1])
        pull_KP = -sign_KP * weight_KP / (1 + np.exp(np.minimum(margin_KP, 500)))
        gradient = np.empty_like(table)
        gradient[:-1] = transposed @ pull_KP + _RIDGE * table[:-1]
        gradient[-1] = pull_KP.sum(axis=0)
        value = (weight_KP * np.logaddexp(0, -margin_KP)).sum()
        return value + 0.5 * _RIDGE * (table[:-1] ** 2).sum(), gradient.ravel()

    start = np.zeros((num_features + 1) * num_policies)
    options = {"maxiter": _ITERATIONS, "maxcor": 6, "ftol": _ENOUGH}
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    table = found.x.reshape(num_features + 1, num_policies)
    return table[:-1], table[-1].copy()
