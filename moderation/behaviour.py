"""What a gate reads of a seller at the instant of an upload: rows of activity finished into behaviour features.

Training tables, backfill, stream and gateway all call `behaviour`; nothing else finishes a window.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moderation.activity_rows import (
    DAY_US,
    HOUR_US,
    MONTH_US,
    QUARTER_US,
    Counts,
    PlaceActivity,
    RowKind,
    SellerActivity,
    mark,
    to_us,
)
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission


@dataclass(frozen=True)
class Keys:
    """Which rows an upload is judged by; None where it has nothing to look up."""

    seller: str | None
    device: str | None
    address: str | None
    price: str | None
    """Category and currency."""

    def __getitem__(self, kind: RowKind) -> str | None:
        """Return the key of one kind of row."""
        found: str | None = getattr(self, kind.value)
        return found

    @classmethod
    def of(cls, submission: Submission) -> "Keys":
        """Return the keys of an upload; one that cannot be placed in time has none."""
        listing = submission.listing
        if is_undated(submission):
            return cls(None, None, None, None)
        return cls(
            listing.seller_id,
            listing.device_fingerprint if listing.seller_id else None,
            listing.address_fingerprint if listing.seller_id else None,
            price_key(submission),
        )


@dataclass(frozen=True)
class Rows:
    """What is known under the keys of one upload; None where there is nothing yet."""

    seller: SellerActivity | None = None
    device: PlaceActivity | None = None
    address: PlaceActivity | None = None
    log_price: float | None = None
    """Median of the newest prices."""

    @classmethod
    def of(cls, values: Mapping[RowKind, bytes | float | None]) -> "Rows":
        """Return rows of stored values.

        Raises:
            ActivityRowError: if bytes are no row.
        """
        seller, device = values.get(RowKind.SELLER), values.get(RowKind.DEVICE)
        address, log_price = values.get(RowKind.ADDRESS), values.get(RowKind.PRICE)
        return cls(
            SellerActivity.decode(seller) if isinstance(seller, bytes) else None,
            PlaceActivity.decode(device) if isinstance(device, bytes) else None,
            PlaceActivity.decode(address) if isinstance(address, bytes) else None,
            log_price if isinstance(log_price, float) else None,
        )


def is_undated(submission: Submission) -> bool:
    """Return whether an import found no event time: such rows have no before and after."""
    return submission.attributes.get("time") == "unknown"


def price_key(submission: Submission) -> str | None:
    """Return under which name the prices that an upload is compared with are kept."""
    listing = submission.listing
    has_price = listing.price and listing.category and listing.currency
    return f"{listing.category}|{listing.currency}" if has_price else None


def behaviour(submission: Submission, rows: Rows) -> npt.NDArray[np.float32]:
    """Return the behaviour behind an upload at the instant of its submission.

    Args:
        submission: what counts happened before its instant; it may be among the rows' uploads already, where it is
            asked about again, and does not count itself.
        rows: known under its keys.

    Returns:
        behaviour_F in the order of `FEATURES`; NaN where unknown: no seller, no device, no price to compare. A new
        seller has zeros, not gaps.
    """
    values = dict.fromkeys(FEATURE_NAMES, math.nan)
    listing, now = submission.listing, to_us(submission.submitted_at)
    if not is_undated(submission):
        if listing.price and rows.log_price is not None and price_key(submission):
            values["price_log_ratio"] = math.log(listing.price) - rows.log_price
        if listing.seller_id:
            values |= _of_seller(rows.seller, submission, now)
            own = mark(listing.seller_id)
            values["sellers_on_device_30d"] = _num_sellers(
                rows.device, listing.device_fingerprint, own, now
            )
            values["sellers_on_address_30d"] = _num_sellers(
                rows.address, listing.address_fingerprint, own, now
            )
    return np.array([values[name] for name in FEATURE_NAMES], np.float32)


def _of_seller(seller: SellerActivity | None, submission: Submission, now: int) -> dict[str, float]:
    """Return the features that depend on the seller's own events."""
    seller, listing = seller or SellerActivity(now, now), submission.listing
    month, quarter = (now - MONTH_US) // HOUR_US, (now - QUARTER_US) // DAY_US
    recent = seller.recent
    day = bisect_left(recent, (now - DAY_US,))
    hour = bisect_left(recent, (now - HOUR_US,))
    # What carries the same instant has no order with the upload, which may be there itself, asked about again.
    end = bisect_left(recent, (now,))
    of_listing = mark(listing.listing_id)
    same = sum(upload[2] == of_listing for upload in recent[day:end])
    return {
        "seller_age_days": max(0, now - seller.first_us) / DAY_US,
        "submissions_1h": max(0, end - hour),
        "submissions_24h": max(0, end - day),
        "submissions_30d": max(0, _since(seller.uploads, month) - (len(recent) - end)),
        "categories_30d": _distinct(seller.categories, listing.category, month),
        "devices_30d": _distinct(seller.devices, listing.device_fingerprint, month),
        "addresses_30d": _distinct(seller.addresses, listing.address_fingerprint, month),
        "violations_90d": _since(seller.violations, quarter),
        "cleared_90d": _since(seller.cleared, quarter),
        "reports_30d": _since(seller.reports, month),
        "appeals_lost_90d": _since(seller.lost, quarter),
        "appeals_won_90d": _since(seller.won, quarter),
        "resubmissions_24h": same,
    }


def _since(counts: Counts, begin: int) -> int:
    return sum(count for bucket, count in counts.items() if bucket >= begin)


def _distinct(seen: Counts, own: str | None, begin: int) -> int:
    """Return how many were used since a bucket, with the upload's own."""
    used = mark(own) if own is not None else None
    num = sum(hour >= begin for hour in seen.values())
    if used is None:
        return num
    return num + (seen.get(used, begin - 1) < begin)


def _num_sellers(place: PlaceActivity | None, used: str | None, own: int, now: int) -> float:
    """Return how many sellers used a device or an address in the last 30 days, this one included."""
    if used is None:
        return math.nan
    begin = (now - MONTH_US) // HOUR_US
    sellers = place.sellers if place else {}
    return 1.0 + sum(hour >= begin for one, hour in sellers.items() if one != own)
