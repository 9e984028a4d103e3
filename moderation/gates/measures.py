"""Every measure that a contract may name: importing this module registers them."""

import math
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
from moderation.release import SHARE, Reads

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
_COUNT: Final = (0.0, math.inf)
_GAIN: Final = (-1.0, 1.0)
_SLICES, _VERSUS, _TIER = frozenset({"slices"}), frozenset({"versus"}), frozenset({"tier"})

READS: Final[Mapping[str, Reads]] = {
    "leaked_items": Reads(frozenset({"golden"}), figures=_COUNT),
    "average_precision": Reads(_JUDGED, may=_SLICES | _VERSUS, figures=SHARE),
    "mean_average_precision": Reads(_JUDGED, may=_VERSUS, figures=SHARE),
    "recall_at_precision": Reads(_JUDGED, must=_TIER, figures=SHARE),
    "true_positive_gap": Reads(_JUDGED, must=_SLICES, figures=SHARE),
    "false_positive_gap": Reads(_JUDGED, must=_SLICES, figures=SHARE),
    "intersections_found": Reads(_JUDGED, must=_SLICES, figures=_COUNT),
    "calibration_slope": Reads(_DEPLOYED),
    "calibration_shift": Reads(_DEPLOYED),
    "predicted_over_observed": Reads(_DEPLOYED, may=_SLICES, figures=_COUNT),
    "predicted_over_observed_flagged": Reads(_DEPLOYED, figures=_COUNT),
    "tier_precision": Reads(_DEPLOYED, may=frozenset({"cap"}), must=_TIER, figures=SHARE),
    "unreachable_tiers": Reads(_DEPLOYED, figures=_COUNT),
    "reviews_per_day": Reads(_DEPLOYED, figures=_COUNT),
    "prefilter_recall": Reads(_JUDGED, figures=SHARE),
    "worst_recall_kept": Reads(_ATTACKS, may=_VERSUS, figures=SHARE),
    "worst_recall_kept_by_policy": Reads(_ATTACKS, may=_VERSUS, figures=SHARE),
    "mean_recall_kept": Reads(_ATTACKS, may=_VERSUS, figures=SHARE),
    "worst_false_positives_gained": Reads(_ATTACKS, may=_VERSUS, figures=_GAIN),
    "mean_false_positives_gained": Reads(_ATTACKS, may=_VERSUS, figures=_GAIN),
    "white_box_recall": Reads(_ATTACKS, figures=SHARE),
    "decisions_stronger": Reads(_REPLAY, may=_SLICES | _TIER, figures=SHARE),
    "decisions_weaker": Reads(_REPLAY, may=_SLICES | _TIER, figures=SHARE),
    "latency_p99_ms": Reads(_COSTS, figures=_COUNT),
    "latency_p99_ratio": Reads(_COSTS, must=_VERSUS, figures=_COUNT),
    "bundle_mib": Reads(_COSTS, may=_VERSUS, figures=_COUNT),
}
"""Measure -> what it reads of a gate: calibration and tiers need the weights of deployed traffic."""
