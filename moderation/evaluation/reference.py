"""The reference profile that drift is measured against: aggregates of the traffic a bundle was made for, never rows.

Axes: N rows, F behaviour features, P policies, D embedding width.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moderation.decision import tier_of
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES
from moderation.thresholds import SolvedThresholds

FORMAT: Final = 1

Floats = npt.NDArray[np.float64]
Record = dict[str, Any]

SCORE_EDGES: Final = tuple(np.round(np.linspace(-16, 16, 65), 2).tolist())
"""Log-odds: probabilities at 1:1000 would all fall into one bin of equal width."""

_NUM_FEATURE_BINS: Final = 20
_MIN_ROWS: Final = 50
"""Below it an aggregate may tell of single rows, and says nothing about the traffic."""


@dataclass
class Moments:
    """Weighted mean and variance of vectors that pass by in batches."""

    weight: float = 0.0
    num_rows: int = 0
    mean_D: Floats = field(default_factory=lambda: np.zeros(0))
    spread_D: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, vectors_ND: npt.NDArray[np.floating[Any]], weight_N: Floats) -> None:
        """Take one batch.

        Source:
            Chan, Golub and LeVeque 1983 (merging of variances).
        """
        total = float(weight_N.sum())
        if not total:
            return
        vectors = np.asarray(vectors_ND, np.float64)
        mean_D = np.einsum("n,nd->d", weight_N, vectors) / total
        spread_D = np.einsum("n,nd->d", weight_N, (vectors - mean_D) ** 2)
        if not self.num_rows:
            self.mean_D, self.spread_D = np.zeros_like(mean_D), np.zeros_like(mean_D)
        both = self.weight + total
        away_D = mean_D - self.mean_D
        self.spread_D = self.spread_D + spread_D + away_D**2 * (self.weight * total / both)
        self.mean_D = self.mean_D + away_D * (total / both)
        self.weight, self.num_rows = both, self.num_rows + len(vectors)

    def record(self) -> Record | None:
        """Return mean and variance per dimension; None from too few rows."""
        if self.num_rows < _MIN_ROWS:
            return None
        variance_D = self.spread_D / self.weight
        return {
            "rows": self.num_rows,
            "mean": np.round(self.mean_D, 6).tolist(),
            "variance": np.round(variance_D, 8).tolist(),
        }


def profile_features(behaviour_NF: npt.NDArray[np.float32], weight_N: Floats) -> Record:
    """Return for each behaviour feature its weighted histogram over fixed edges and its share missing.

    Edges are quantiles of the reference and are kept with it, so that every later window is
    counted in the same bins.
    """
    profile: Record = {}
    for column, name in enumerate(FEATURE_NAMES):
        values = behaviour_NF[:, column].astype(np.float64)
        there = np.isfinite(values)
        missing = 1 - float(weight_N[there].sum()) / float(weight_N.sum())
        profile[name] = {"missing": missing, **_histogram(values[there], weight_N[there])}
    return profile


def profile_scores(
    log_odds_NP: Floats,
    probability_NP: Floats,
    weight_N: Floats,
    solved: Sequence[SolvedThresholds],
) -> Record:
    """Return for each policy the histogram of calibrated log-odds and the share of traffic per tier."""
    total = float(weight_N.sum())
    profile: Record = {}
    for column, policy in enumerate(solved):
        clipped = np.clip(log_odds_NP[:, column], SCORE_EDGES[0], SCORE_EDGES[-1])
        counts, _ = np.histogram(clipped, SCORE_EDGES, weights=weight_N / total)
        tiers: dict[str, float] = {}
        for probability, weight in zip(probability_NP[:, column], weight_N, strict=True):
            label = tier_of(float(probability), policy.open).label
            tiers[label] = tiers.get(label, 0.0) + float(weight) / total
        profile[policy.policy] = {
            "edges": list(SCORE_EDGES),
            "shares": np.round(counts, 8).tolist(),
            "tiers": {name: round(share, 8) for name, share in sorted(tiers.items())},
        }
    return profile


def profile_embeddings(
    batches: Iterable[Mapping[str, tuple[npt.NDArray[np.floating[Any]], Floats]]],
) -> Record:
    """Return mean and variance of the embeddings of each modality.

    Args:
        batches: each gives modality -> (vectors_ND of rows that have it, weight_N).
    """
    moments: dict[str, Moments] = {}
    for batch in batches:
        for modality, (vectors_ND, weight_N) in batch.items():
            moments.setdefault(modality, Moments()).add(vectors_ND, weight_N)
    return {modality: found.record() for modality, found in sorted(moments.items())}


def save_reference(path: Path, profiles: Mapping[str, Record], *, num_rows: int) -> None:
    """Write the profiles (`features`, `scores`, `embeddings`, ...) as JSON."""
    content = {"format": FORMAT, "rows": num_rows, **profiles}
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False))


def load_reference(path: Path) -> Record:
    """Return what `save_reference` wrote.

    Raises:
        BundleRejected: if the file is missing, damaged or of another format.
    """
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']} is not {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleRejected(f"{path}: no readable reference profile: {error!r}") from error
    return dict(content)


def _histogram(values: Floats, weight: Floats) -> Record:
    """Return quantile edges and the weighted share of each bin; the outer bins are open."""
    if len(values) < _MIN_ROWS:
        return {"edges": [], "shares": [], "mean": None}
    quantiles = np.quantile(values, np.linspace(0, 1, _NUM_FEATURE_BINS + 1)[1:-1])
    edges = np.unique(np.round(quantiles, 6))
    shares = np.bincount(
        np.searchsorted(edges, values, side="right"), weight, minlength=len(edges) + 1
    )
    return {
        "edges": edges.tolist(),
        "shares": np.round(shares / weight.sum(), 8).tolist(),
        "mean": float((values * weight).sum() / weight.sum()),
    }
