"""Every measure that a contract may name: importing this module registers them."""

from collections.abc import Mapping
from typing import Final

from moderation.gates import (
    attacked,
    calibrated,
    costs,
    fairness,
    intersections,
    leaked,
    quality,
    replayed,
    tiers,
)

__all__ = [
    "attacked",
    "calibrated",
    "costs",
    "fairness",
    "intersections",
    "leaked",
    "quality",
    "replayed",
    "tiers",
]

_JUDGED: Final = frozenset({"golden", "traffic", "fresh"})
_DEPLOYED: Final = frozenset({"traffic", "fresh"})
_ATTACKS, _REPLAY, _COSTS = frozenset({"attacks"}), frozenset({"replay"}), frozenset({"costs"})

READS: Final[Mapping[str, frozenset[str]]] = {
    "leaked_items": frozenset({"golden"}),
    "average_precision": _JUDGED,
    "mean_average_precision": _JUDGED,
    "recall_at_precision": _JUDGED,
    "true_positive_gap": _JUDGED,
    "false_positive_gap": _JUDGED,
    "intersections_found": _JUDGED,
    "calibration_slope": _DEPLOYED,
    "calibration_shift": _DEPLOYED,
    "predicted_over_observed": _DEPLOYED,
    "predicted_over_observed_flagged": _DEPLOYED,
    "tier_precision": _DEPLOYED,
    "unreachable_tiers": _DEPLOYED,
    "reviews_per_day": _DEPLOYED,
    "worst_recall_kept": _ATTACKS,
    "mean_recall_kept": _ATTACKS,
    "worst_false_positives_gained": _ATTACKS,
    "mean_false_positives_gained": _ATTACKS,
    "white_box_recall": _ATTACKS,
    "decisions_stronger": _REPLAY,
    "decisions_weaker": _REPLAY,
    "latency_p99_ms": _COSTS,
    "latency_p99_ratio": _COSTS,
    "bundle_mib": _COSTS,
}
"""Measure -> the sets that it can be taken of: calibration and tiers need the weights of deployed traffic."""
