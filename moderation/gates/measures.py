"""Every measure that a contract may name: importing this module registers them."""

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
