"""What a seller has done so far: one fold over events, used for training tables and for serving alike.

Events are observed in the order in which they became known. A submission's features are read before the submission
itself is observed, so nothing that came later, or that was not known yet, can reach them.
"""

import bisect
import math
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.features import FEATURE_NAMES
from moderation.listing import Appeal, GroundTruth, Report, Submission, TruthSource

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_MONTH: Final = timedelta(days=30)
_QUARTER: Final = timedelta(days=90)

# Prices kept per category and currency for the running median: enough for a stable one, few enough to follow a season.
_MAX_PRICES: Final = 301
_MIN_PRICES: Final = 5


@dataclass(frozen=True)
class _Upload:
    at: datetime
    submission_id: str
    listing_id: str
    category: str | None
    device: str | None
    address: str | None


@dataclass
class _Seller:
    first_seen: datetime
    newest: datetime
    uploads: deque[_Upload] = field(default_factory=deque)
    verdicts: dict[str, dict[str, GroundTruth]] = field(default_factory=dict)
    """Submission -> policy -> the truth that holds."""

    reports: deque[datetime] = field(default_factory=deque)
    appeals_lost: deque[datetime] = field(default_factory=deque)
    appeals_won: deque[datetime] = field(default_factory=deque)


class _Prices:
    """Running median of the newest log prices of one category and currency."""

    def __init__(self) -> None:
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, log_price: float) -> None:
        if len(self._arrived) == _MAX_PRICES:
            oldest = self._arrived.popleft()
            del self._sorted[bisect.bisect_left(self._sorted, oldest)]
        self._arrived.append(log_price)
        bisect.insort(self._sorted, log_price)

    def median(self) -> float | None:
        enough = len(self._sorted) >= _MIN_PRICES
        return self._sorted[len(self._sorted) // 2] if enough else None


class ActivityState:
    """Counts and rates per seller, device and address; memory grows with 30 days of uploads, not with history."""

    def __init__(self) -> None:
        self._sellers: dict[str, _Seller] = {}
        self._devices: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
        self._addresses: defaultdict[str, dict[str, datetime]] = defaultdict(dict)
        self._prices: defaultdict[tuple[str, str], _Prices] = defaultdict(_Prices)
        self._seller_of: dict[str, str] = {}

    def features(self, submission: Submission) -> tuple[npt.NDArray[np.float32], datetime | None]:
        """Return the behaviour of the seller just before `submission`.

        Args:
            submission: not observed yet; its time is the instant that the windows end at.

        Returns:
            behaviour_F, float32 in the order of `FEATURES`, NaN where unknown (no seller, no price to compare);
            and the time of the seller's newest event, None for a new seller.
        """
        values = dict.fromkeys(FEATURE_NAMES, math.nan)
        if _is_undated(submission):
            return np.array(list(values.values()), np.float32), None
        listing, now = submission.listing, submission.submitted_at
        values["price_log_ratio"] = self._price_log_ratio(submission)
        seller = self._sellers.get(listing.seller_id) if listing.seller_id else None
        if listing.seller_id:
            values |= _of_seller(seller, submission)
            values["sellers_on_device_30d"] = _num_recent(
                self._devices, listing.device_fingerprint, listing.seller_id, now
            )
            values["sellers_on_address_30d"] = _num_recent(
                self._addresses, listing.address_fingerprint, listing.seller_id, now
            )
        behaviour_F = np.array([values[name] for name in FEATURE_NAMES], np.float32)
        return behaviour_F, seller.newest if seller else None

    def observe_submission(self, submission: Submission) -> None:
        """Count an upload; call after `features`, in the order of submission. Undated ones have no order."""
        if _is_undated(submission):
            return
        listing, now = submission.listing, submission.submitted_at
        if listing.price and listing.category and listing.currency:
            self._prices[listing.category, listing.currency].add(math.log(listing.price))
        if listing.seller_id is None:
            return
        self._seller_of[submission.submission_id] = listing.seller_id
        seller = self._seller(listing.seller_id, now)
        seller.uploads.append(
            _Upload(
                now,
                submission.submission_id,
                listing.listing_id,
                listing.category,
                listing.device_fingerprint,
                listing.address_fingerprint,
            )
        )
        while seller.uploads and seller.uploads[0].at < now - _MONTH:
            seller.uploads.popleft()
        if listing.device_fingerprint:
            self._devices[listing.device_fingerprint][listing.seller_id] = now
        if listing.address_fingerprint:
            self._addresses[listing.address_fingerprint][listing.seller_id] = now

    def observe_truth(self, truth: GroundTruth) -> None:
        """Count what was established, at the time it became known; truths of one submission count once.

        Under one policy a finished appeal holds against any review, and otherwise the newest truth holds. A
        submission that violates any policy is a violation. Imported truth is not counted: nothing says when a
        marketplace would have known it.
        """
        if truth.source is TruthSource.IMPORT:
            return
        seller = self._of_submission(truth.submission_id, truth.known_at)
        if seller is None:
            return
        held = seller.verdicts.setdefault(truth.submission_id, {})
        before = held.get(truth.policy)
        if (
            before is None
            or before.source is not TruthSource.APPEAL
            or truth.source is before.source
        ):
            held[truth.policy] = truth

    def observe_report(self, report: Report) -> None:
        """Count a user's report at its time."""
        seller = self._of_submission(report.submission_id, report.reported_at)
        if seller:
            seller.reports.append(report.reported_at)

    def observe_appeal(self, appeal: Appeal) -> None:
        """Count a finished appeal when it was resolved; an open one says nothing yet."""
        if appeal.resolved_at is None or appeal.overturned is None:
            return
        seller = self._of_submission(appeal.submission_id, appeal.resolved_at)
        if seller:
            (seller.appeals_won if appeal.overturned else seller.appeals_lost).append(
                appeal.resolved_at
            )

    def _seller(self, seller_id: str, now: datetime) -> _Seller:
        seller = self._sellers.setdefault(seller_id, _Seller(first_seen=now, newest=now))
        seller.newest = max(seller.newest, now)
        return seller

    def _of_submission(self, submission_id: str, now: datetime) -> _Seller | None:
        seller_id = self._seller_of.get(submission_id)
        return self._seller(seller_id, now) if seller_id else None

    def _price_log_ratio(self, submission: Submission) -> float:
        listing = submission.listing
        if not (listing.price and listing.category and listing.currency):
            return math.nan
        prices = self._prices.get((listing.category, listing.currency))
        median = prices.median() if prices else None
        return math.nan if median is None else math.log(listing.price) - median


def _is_undated(submission: Submission) -> bool:
    """Return whether an import found no event time: such rows have no before and after."""
    return submission.attributes.get("time") == "unknown"


def _of_seller(seller: _Seller | None, submission: Submission) -> dict[str, float]:
    """Return the features that depend on the seller's own events; a new seller has zeros, not gaps."""
    now, listing = submission.submitted_at, submission.listing
    # An upload that is asked about again, after a failed write, must not count itself.
    mine = submission.submission_id
    uploads = [u for u in seller.uploads if u.at >= now - _MONTH] if seller else []
    uploads = [upload for upload in uploads if upload.submission_id != mine]
    devices = {u.device for u in uploads} | {listing.device_fingerprint}
    addresses = {u.address for u in uploads} | {listing.address_fingerprint}
    categories = {u.category for u in uploads} | {listing.category}
    return {
        "seller_age_days": (now - seller.first_seen) / _DAY if seller else 0.0,
        "submissions_1h": sum(u.at >= now - _HOUR for u in uploads),
        "submissions_24h": sum(u.at >= now - _DAY for u in uploads),
        "submissions_30d": len(uploads),
        "categories_30d": len(categories - {None}),
        "devices_30d": len(devices - {None}),
        "addresses_30d": len(addresses - {None}),
        "violations_90d": _num_verdicts(seller, now - _QUARTER, violates=True),
        "cleared_90d": _num_verdicts(seller, now - _QUARTER, violates=False),
        "reports_30d": _num_since(seller.reports if seller else (), now - _MONTH),
        "appeals_lost_90d": _num_since(seller.appeals_lost if seller else (), now - _QUARTER),
        "appeals_won_90d": _num_since(seller.appeals_won if seller else (), now - _QUARTER),
        "resubmissions_24h": sum(
            u.at >= now - _DAY and u.listing_id == listing.listing_id for u in uploads
        ),
    }


def _num_verdicts(seller: _Seller | None, begin: datetime, *, violates: bool) -> int:
    """Return how many submissions of a seller were found so since `begin`; older verdicts are forgotten."""
    if seller is None:
        return 0
    found = {
        submission_id: any(truth.violates for truth in held.values())
        for submission_id, held in seller.verdicts.items()
        if max(truth.known_at for truth in held.values()) >= begin
    }
    seller.verdicts = {submission_id: seller.verdicts[submission_id] for submission_id in found}
    return sum(violated is violates for violated in found.values())


def _num_since(instants: Iterable[datetime], begin: datetime) -> int:
    return sum(instant >= begin for instant in instants)


def _num_recent(
    places: dict[str, dict[str, datetime]], place: str | None, seller_id: str, now: datetime
) -> float:
    """Return how many sellers used a device or an address in the last 30 days, this one included."""
    if place is None:
        return math.nan
    seen = places.get(place, {})
    others = sum(at >= now - _MONTH for other, at in seen.items() if other != seller_id)
    return float(others + 1)
