"""The meta-learner: members' logits to one calibrated probability, whatever modality is missing.

Every set of modalities has its own non-negative weights and its own calibration, fitted elsewhere;
here they are applied, saved and loaded. Axes: N listings, P policies, M members as in `SIGNALS`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.decision import SIGNALS
from moderation.errors import BundleRejected
from moderation.signals import BEHAVIOUR, IMAGE, OK, PATTERNS, TEXT, members_of, pattern_name

FORMAT: Final = 1
MAX_LOGIT: Final = 40.0
"""Logits beyond it are cut: the probability is 0 or 1 to every printed digit."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatternFit:
    """How one policy's members are combined when just these modalities are there."""

    weights: tuple[float, ...]
    """One per member, in the order of `SIGNALS`, none negative: no member can be read backwards."""

    intercept: float
    slope: float
    """Calibration: log-odds = slope * (intercept + weights . logits) + offset."""

    offset: float
    origin: str
    """`fitted`; or the poorer pattern whose fit is used; or `prior` where no truth could teach one."""

    num_rows: int
    num_positives: int


@dataclass(frozen=True)
class Ensemble:
    """One `PatternFit` per pattern of modalities and policy, and the base rate for no modality at all."""

    policies: tuple[str, ...]
    prior_P: tuple[float, ...]
    """Weighted base rate: the answer where nothing can be measured."""

    fits: Mapping[int, tuple[PatternFit, ...]]
    """Pattern bits -> one fit per policy."""

    def combine(self, signals_NPM: Floats, status_NPM: npt.NDArray[np.int8]) -> Floats:
        """Return the violation probability of each listing and policy.

        The modalities that count are those of which a member answered. A member that failed though
        its modality is there is stood in for by the mean of the pattern's other members. Signals
        are first rounded to float32, as they travel: recorded ones give the same bits again, in
        any batch.

        Args:
            signals_NPM: logits; ignored where the status is not ok.
            status_NPM: codes of `STATUS_CODES`.

        Returns:
            probability_NP in [0, 1].

        Raises:
            ValueError: on a wrong shape, or a signal that is ok and not a number.
        """
        odds_NP = self.log_odds(signals_NPM, status_NPM)
        # libm, one number at a time: vectorised exp may round differently at a batch's end.
        flat = [_sigmoid(value) for value in odds_NP.ravel().tolist()]
        return np.array(flat, np.float64).reshape(odds_NP.shape)

    def log_odds(self, signals_NPM: Floats, status_NPM: npt.NDArray[np.int8]) -> Floats:
        """Return the calibrated log-odds behind `combine`, for calibration tests and plots."""
        shape = (len(self.policies), len(SIGNALS))
        if signals_NPM.shape[1:] != shape or status_NPM.shape != signals_NPM.shape:
            raise ValueError(
                f"signals {signals_NPM.shape}, status {status_NPM.shape}: want {shape}"
            )
        ok_NPM = status_NPM == OK
        rounded = np.where(ok_NPM, signals_NPM, 0.0).astype(np.float32).astype(np.float64)
        if np.isnan(rounded).any():
            raise ValueError("a signal is ok and not a number; what is missing has a status")
        logits_NPM = np.clip(rounded, -MAX_LOGIT, MAX_LOGIT)
        bits_NP = _bits(ok_NPM)
        column = np.arange(len(self.policies))
        table = self._table
        weights_NPM = table["weights"][bits_NP, column]
        filled_NPM = _stand_in(logits_NPM, ok_NPM, table["answers"][bits_NP])
        odds_NP = table["intercept"][bits_NP, column]
        for member in range(len(SIGNALS)):  # elementwise in a fixed order: a row ignores its batch
            odds_NP = odds_NP + weights_NPM[..., member] * filled_NPM[..., member]
        odds_NP = odds_NP * table["slope"][bits_NP, column]
        calibrated_NP: Floats = odds_NP + table["offset"][bits_NP, column]
        return calibrated_NP

    @cached_property
    def _table(self) -> dict[str, Floats]:
        """Everything as arrays indexed by pattern bits and policy; pattern 0 answers the prior."""
        num_policies, num_members = len(self.policies), len(SIGNALS)
        table = {
            "weights": np.zeros((8, num_policies, num_members)),
            "intercept": np.tile(np.array([_logit(prior) for prior in self.prior_P]), (8, 1)),
            "slope": np.ones((8, num_policies)),
            "offset": np.zeros((8, num_policies)),
            "answers": np.zeros((8, num_members)),
        }
        for bits, fits in self.fits.items():
            table["answers"][bits, list(members_of(bits))] = 1.0
            for column, fit in enumerate(fits):
                for name in ("weights", "intercept", "slope", "offset"):
                    table[name][bits, column] = getattr(fit, name)
        return table

    def save(self, path: Path) -> None:
        """Write the ensemble as JSON that holds every number exactly."""
        content = {
            "format": FORMAT,
            "members": SIGNALS,
            "policies": self.policies,
            "prior": self.prior_P,
            "patterns": {
                str(bits): {
                    "modalities": pattern_name(bits),
                    "fits": {p: asdict(f) for p, f in zip(self.policies, fits, strict=True)},
                }
                for bits, fits in sorted(self.fits.items())
            },
        }
        path.write_text(json.dumps(content, indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: Path) -> "Ensemble":
        """Return the ensemble of a file.

        Raises:
            BundleRejected: if the file is missing, of other members, or holds an impossible number.
        """
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT or tuple(content["members"]) != SIGNALS:
                raise ValueError("it is of another format or of other members")
            policies = tuple(content["policies"])
            fits = {
                bits: tuple(_checked(content["patterns"][str(bits)]["fits"][p]) for p in policies)
                for bits in PATTERNS
            }
            prior_P = tuple(float(value) for value in content["prior"])
            if len(prior_P) != len(policies) or not all(0 < value < 1 for value in prior_P):
                raise ValueError("every policy needs a prior between 0 and 1")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleRejected(f"{path}: no readable ensemble: {error!r}") from error
        return cls(policies, prior_P, fits)


def _checked(fields: dict[str, Any]) -> PatternFit:
    fit = PatternFit(**{**fields, "weights": tuple(fields["weights"])})
    numbers = (*fit.weights, fit.intercept, fit.slope, fit.offset)
    if len(fit.weights) != len(SIGNALS) or not all(map(math.isfinite, numbers)):
        raise ValueError("a fit needs one finite weight per member")
    if min(fit.weights) < 0 or fit.slope <= 0:
        raise ValueError("a negative weight or slope would read a member backwards")
    return fit


def _bits(ok_NPM: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the pattern of each listing and policy: a modality counts when a member of its own answered."""
    ok = {name: ok_NPM[..., index] for index, name in enumerate(SIGNALS)}
    bits_NP: npt.NDArray[np.int64] = (
        ok["image"] * IMAGE + (ok["text"] | ok["ngram"]) * TEXT + ok["behaviour"] * BEHAVIOUR
    )
    return bits_NP


def _stand_in(logits_NPM: Floats, ok_NPM: npt.NDArray[np.bool_], answers_NPM: Floats) -> Floats:
    """Return the logits with each failed member's replaced by the mean of those that answered."""
    total_NP, num_NP = np.zeros(logits_NPM.shape[:2]), np.zeros(logits_NPM.shape[:2])
    counts_NPM = ok_NPM * answers_NPM
    for member in range(logits_NPM.shape[-1]):
        total_NP = total_NP + logits_NPM[..., member] * counts_NPM[..., member]
        num_NP = num_NP + counts_NPM[..., member]
    mean_NP = total_NP / np.maximum(num_NP, 1.0)
    return np.where(ok_NPM, logits_NPM, mean_NP[..., None])


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + math.exp(-value))
    grown = math.exp(max(value, -700.0))
    return grown / (1.0 + grown)


def _logit(probability: float) -> float:
    return math.log(probability) - math.log1p(-probability)
