"""Behaviour features of a seller: names, types, defaults and meaning, written once for training, serving and Feast."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

_HOUR: Final = 3_600
_DAY: Final = 86_400


@dataclass(frozen=True)
class Feature:
    """One behaviour feature. All are float32 on the wire; a missing one carries a status and `default`."""

    name: str
    meaning: str
    default: float = 0.0
    window_s: int | None = None
    """Length of the window that it counts over; None for a value of the moment."""

    @property
    def max_lag_s(self) -> float:
        """Seconds that its events may lag before it says nothing of now: a twelfth of its window, at most a day."""
        return min(self.window_s / 12, _DAY) if self.window_s else _DAY


FEATURES: Final[tuple[Feature, ...]] = (
    Feature("seller_age_days", "days since the seller's first event"),
    Feature(
        "submissions_1h",
        "submissions of the seller in the last hour, this one excluded",
        window_s=_HOUR,
    ),
    Feature(
        "submissions_24h",
        "submissions of the seller in the last day, this one excluded",
        window_s=_DAY,
    ),
    Feature(
        "submissions_30d",
        "submissions of the seller in the last 30 days, this one excluded",
        window_s=30 * _DAY,
    ),
    Feature(
        "categories_30d",
        "distinct categories that the seller listed in, last 30 days",
        window_s=30 * _DAY,
    ),
    Feature("devices_30d", "distinct devices of the seller, last 30 days", window_s=30 * _DAY),
    Feature("addresses_30d", "distinct addresses of the seller, last 30 days", window_s=30 * _DAY),
    Feature(
        "sellers_on_device_30d",
        "distinct sellers seen on this device, last 30 days",
        window_s=30 * _DAY,
    ),
    Feature(
        "sellers_on_address_30d",
        "distinct sellers seen at this address, last 30 days",
        window_s=30 * _DAY,
    ),
    Feature(
        "violations_90d",
        "violations of the seller that were established in the last 90 days",
        window_s=90 * _DAY,
    ),
    Feature(
        "cleared_90d",
        "reviews of the seller that found no violation, last 90 days",
        window_s=90 * _DAY,
    ),
    Feature("reports_30d", "user reports about the seller, last 30 days", window_s=30 * _DAY),
    Feature(
        "appeals_lost_90d",
        "appeals of the seller that were upheld against it, last 90 days",
        window_s=90 * _DAY,
    ),
    Feature(
        "appeals_won_90d",
        "appeals that overturned a decision about the seller, last 90 days",
        window_s=90 * _DAY,
    ),
    Feature(
        "resubmissions_24h", "earlier submissions of this listing in the last day", window_s=_DAY
    ),
    Feature(
        "price_log_ratio", "log of the price over the running median of its category and currency"
    ),
)

FEATURE_NAMES: Final = tuple(feature.name for feature in FEATURES)
DEFAULTS: Final[npt.NDArray[np.float32]] = np.array(
    [feature.default for feature in FEATURES], np.float32
)
