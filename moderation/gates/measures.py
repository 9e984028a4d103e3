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
    prefiltered,
    quality,
    replayed,
    tiers,
)
from moderation.release import Reads

__all__ = [
    "attacked",
    "calibrated",
    "costs",
    "fairness",
    "intersections",
    "leaked",
    "prefiltered",
    "quality",
    "replayed",
    "tiers",
]

_JUDGED: Final = frozenset({"golden", "traffic", "fresh"})
_DEPLOYED: Final = frozenset({"traffic", "fresh"})
_ATTACKS, _REPLAY, _COSTS = frozenset({"attacks"}), frozenset({"replay"}), frozenset({"costs"})
_SLICES, _VERSUS, _TIER = frozenset({"slices"}), frozenset({"versus"}), frozenset({"tier"})

READS: Final[Mapping[str, Reads]] = {
    "leaked_items": Reads(frozenset({"golden"})),
    "average_precision": Reads(_JUDGED, may=_SLICES | _VERSUS),
    "mean_average_precision": Reads(_JUDGED, may=_VERSUS),
    "recall_at_precision": Reads(_JUDGED, must=_TIER),
    "true_positive_gap": Reads(_JUDGED, must=_SLICES),
    "false_positive_gap": Reads(_JUDGED, must=_SLICES),
    "intersections_found": Reads(_JUDGED, must=_SLICES),
    "calibration_slope": Reads(_DEPLOYED),
    "calibration_shift": Reads(_DEPLOYED),
    "predicted_over_observed": Reads(_DEPLOYED, may=_SLICES),
    "predicted_over_observed_flagged": Reads(_DEPLOYED),
    "tier_precision": Reads(_DEPLOYED, may=frozenset({"cap"}), must=_TIER),
    "unreachable_tiers": Reads(_DEPLOYED),
    "reviews_per_day": Reads(_DEPLOYED),
    "prefilter_recall": Reads(_JUDGED),
    "worst_recall_kept": Reads(_ATTACKS, may=_VERSUS),
    "worst_recall_kept_by_policy": Reads(_ATTACKS, may=_VERSUS),
    "mean_recall_kept": Reads(_ATTACKS, may=_VERSUS),
    "worst_false_positives_gained": Reads(_ATTACKS, may=_VERSUS),
    "mean_false_positives_gained": Reads(_ATTACKS, may=_VERSUS),
    "white_box_recall": Reads(_ATTACKS),
    "decisions_stronger": Reads(_REPLAY, may=_SLICES | _TIER),
    "decisions_weaker": Reads(_REPLAY, may=_SLICES | _TIER),
    "latency_p99_ms": Reads(_COSTS),
    "latency_p99_ratio": Reads(_COSTS, must=_VERSUS),
    "bundle_mib": Reads(_COSTS, may=_VERSUS),
}
"""Measure -> what it reads of a gate: calibration and tiers need the weights of deployed traffic."""
