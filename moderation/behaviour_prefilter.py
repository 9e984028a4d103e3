"""The behaviour prefilter of a bundle: which uploads pass without asking the towers, by the seller's behaviour alone.

It reads the bundle's own behaviour trees. What it cannot judge goes on: a missing, stale or broken feature, a new
seller, another order of features. N rows, F features, P policies.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.boosting import BoostingModel
from moderation.bundle_files import canonical_json
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES

FORMAT: Final = 1
NEW_SELLER: Final = "new seller"
"""Reason for which an upload goes on by rule."""

_AGE: Final = FEATURE_NAMES.index("seller_age_days")

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StratumEvidence:
    """What the threshold does to the violations of one policy, or to the evasive ones of all."""

    of: str
    violations: int
    """With all features known, in rows that the trees had not seen."""

    groups: int
    """Sellers and campaigns that they are of."""

    missed: int
    effective_n: float
    recall: float
    lower_bound: float
    needed: int
    """Independent violations that would open the prefilter with none missed."""

    reason: str
    """Why it keeps the prefilter closed; empty where it does not."""


@dataclass(frozen=True)
class PrefilterEvidence:
    """The threshold of a bundle, and what it rests on."""

    policies: tuple[str, ...]
    threshold: float | None
    """Smallest score that goes on; None: closed, everything goes on."""

    new_seller_days: float
    recall: float
    """The floor that was wanted."""

    confidence: float
    share_let_go: float
    """Of traffic, weighted, in the rows that the threshold was chosen on."""

    strata: tuple[StratumEvidence, ...]

    @property
    def is_open(self) -> bool:
        """Whether it lets anything go."""
        return self.threshold is not None

    def __str__(self) -> str:
        """Return the state in one line, for people."""
        if self.threshold is not None:
            worst = min((one.lower_bound for one in self.strata), default=0.0)
            return (
                f"open: lets {self.share_let_go:.2%} of traffic go; at least {worst:.4f} of violations go on, "
                f"{self.recall:g} wanted"
            )
        said = [f"{one.of}: {one.reason}" for one in self.strata if one.reason]
        return f"closed, everything goes on: {'; '.join(said) or 'no violation is known'}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        content = asdict(self) | {"format": FORMAT, "features": list(FEATURE_NAMES)}
        return content | {"policies": list(self.policies), "strata": list(content["strata"])}

    def save(self, path: Path) -> None:
        """Write it as JSON; the same evidence gives the same bytes."""
        path.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False))

    @classmethod
    def parse(cls, content: Any) -> "PrefilterEvidence":
        """Return what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: if it is damaged, or for other features than this release has.
        """
        if content["format"] != FORMAT or tuple(content["features"]) != FEATURE_NAMES:
            raise ValueError("it has another format or other features")
        threshold = content["threshold"]
        found = cls(
            policies=tuple(content["policies"]),
            threshold=None if threshold is None else float(threshold),
            new_seller_days=float(content["new_seller_days"]),
            recall=float(content["recall"]),
            confidence=float(content["confidence"]),
            share_let_go=float(content["share_let_go"]),
            strata=tuple(StratumEvidence(**fields) for fields in content["strata"]),
        )
        if not np.isfinite([found.threshold or 0.0, found.new_seller_days]).all():
            raise ValueError("a limit is no finite number")
        return found

    @classmethod
    def load(cls, path: Path) -> "PrefilterEvidence":
        """Return what `save` wrote.

        Raises:
            BundleRejected: if the file is missing or damaged, or for other features than this release has.
        """
        try:
            return cls.parse(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleRejected(f"{path}: no readable prefilter: {error!r}") from error


@dataclass(frozen=True)
class Opinion:
    """What the prefilter says of one upload."""

    score: float | None
    """None where it was not taken."""

    lets_go: bool
    reason: str


@dataclass(frozen=True)
class Prefilter:
    """Threshold and trees; safe to use from many threads."""

    evidence: PrefilterEvidence
    model: BoostingModel

    @classmethod
    def load(cls, folder: Path) -> "Prefilter | None":
        """Return the prefilter of a bundle; None if it was built without one.

        Raises:
            BundleRejected: if a file is damaged.
        """
        path = folder / "prefilter.json"
        if not path.is_file():
            return None
        return cls(PrefilterEvidence.load(path), BoostingModel.load(folder / "behaviour"))

    def lets_go(self, behaviour_NF: Values) -> Flags:
        """Return which rows would pass without a model's answer, the random draw aside.

        Args:
            behaviour_NF: in the order of `FEATURE_NAMES`, NaN where a feature is missing or stale.
        """
        lets_go_N = np.zeros(len(behaviour_NF), bool)
        if self.evidence.threshold is None:
            return lets_go_N
        rows = np.flatnonzero(is_judged(behaviour_NF, self.evidence.new_seller_days))
        score_R = harm_score(self.model.logits(behaviour_NF[rows]))
        lets_go_N[rows] = score_R < self.evidence.threshold
        return lets_go_N

    def judge(self, values_F: Values, is_ok_F: Flags) -> Opinion:
        """Return what it says of one upload.

        Args:
            values_F: in the order of `FEATURE_NAMES`.
            is_ok_F: whether each value was read, and is of now.
        """
        threshold = self.evidence.threshold
        if threshold is None:
            return Opinion(None, False, "closed for this bundle")
        known_F = is_ok_F & np.isfinite(values_F)
        if not known_F.all():
            lacking = [
                name for name, known in zip(FEATURE_NAMES, known_F, strict=True) if not known
            ]
            return Opinion(None, False, f"features not known: {', '.join(lacking)}")
        if values_F[_AGE] < self.evidence.new_seller_days:
            return Opinion(None, False, NEW_SELLER)
        score = float(harm_score(self.model.logits(values_F[None].astype(np.float32)))[0])
        if score < threshold:
            return Opinion(score, True, "score below the threshold")
        return Opinion(score, False, "score at or above the threshold")

    def to_bytes(self) -> bytes:
        """Return everything that `from_bytes` needs, as canonical JSON: what a predictor hands out."""
        texts = zip(self.evidence.policies, self.model.model_texts, strict=True)
        content = {
            "prefilter": self.evidence.to_json(),
            "behaviour": self.model.describe(self.evidence.policies),
            "trees": {policy: text for policy, text in texts if text is not None},
        }
        return canonical_json(content)

    @classmethod
    def from_bytes(cls, data: bytes, *, digest: str) -> "Prefilter":
        """Return the prefilter that `to_bytes` wrote.

        Args:
            data: as it came.
            digest: SHA-256 that it must have.

        Raises:
            BundleRejected: if it has another digest, is damaged, or is for other features than this release has.
        """
        if digest_of(data) != digest:
            raise BundleRejected("the prefilter was altered on its way: its SHA-256 is another one")
        try:
            content = json.loads(data)
            trees: dict[str, str] = content["trees"]
            evidence = PrefilterEvidence.parse(content["prefilter"])
            model = BoostingModel.parse(content["behaviour"], trees.__getitem__)
        except (ValueError, KeyError, TypeError) as error:
            raise BundleRejected(f"no readable prefilter: {error!r}") from error
        return cls(evidence, model)


def digest_of(data: bytes) -> str:
    """Return the SHA-256 of a prefilter's bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def is_judged(behaviour_NF: Values, new_seller_days: float) -> Flags:
    """Return the rows that the trees may judge: every feature known, and no new seller."""
    known_N = np.isfinite(behaviour_NF).all(axis=1)
    judged_N: Flags = known_N & (behaviour_NF[:, _AGE] >= new_seller_days)
    return judged_N


def harm_score(logits_NP: Floats) -> Floats:
    """Return one score a row: the log-odds of its likeliest violation."""
    score_N: Floats = logits_NP.max(axis=1)
    return score_N
