"""What sellers have done so far: one fold over events, used for training tables, backfill, stream and serving alike.

Events are observed in the order in which they became known. A submission's features are read before the submission
itself is observed, so nothing that came later, or that was not known yet, can reach them. The state depends on the set
of events alone: late, repeated and out-of-order ones end in the same rows.
"""

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.activity_rows import (
    DAY_US,
    HOUR_US,
    Counts,
    PlaceActivity,
    RowKind,
    SellerActivity,
    add,
    from_us,
    mark,
    meet,
    to_us,
)
from moderation.behaviour import Keys, Rows, behaviour, is_undated, price_key
from moderation.listing import Appeal, GroundTruth, Report, Reversal, Submission, TruthSource

# Prices kept per category and currency for the running median: enough for a stable one, few enough to follow a season.
_MAX_PRICES: Final = 301
_MIN_PRICES: Final = 5
_MONTH_HOURS: Final = 30 * 24
_QUARTER_DAYS: Final = 90


Record = Submission | GroundTruth | Report | Appeal | Reversal
"""What says something about a seller."""


@dataclass(order=True, frozen=True)
class _Verdict:
    """One truth under one policy; the largest holds: an appeal, then the newest, then the milder."""

    is_appeal: bool
    known_us: int
    reviewed_us: int
    is_cleared: bool


@dataclass(order=True, frozen=True)
class _Undone:
    """A reversal: the latest holds."""

    reversed_us: int
    known_us: int


@dataclass
class _Judged:
    """The verdicts on one submission, and the bucket of the seller in which they count."""

    verdicts: defaultdict[str, set[_Verdict]] = field(default_factory=lambda: defaultdict(set))
    """By policy; all are kept, as a reversal that comes late may leave any of them standing."""

    undone: dict[str | None, _Undone] = field(default_factory=dict)
    """By policy, None where it is every policy."""

    counted: tuple[bool, int] | None = None
    """Whether it violates, and the day."""

    def undo(self, policy: str | None, undone: _Undone) -> None:
        self.undone[policy] = max(undone, self.undone.get(policy, undone))

    def outcome(self) -> tuple[bool, int]:
        """Return whether it violates any policy, and the day from which that holds."""
        held = [self._held(policy) for policy in {*self.verdicts, *self.undone}]
        violates = not all(verdict.is_cleared for verdict in held)
        return violates, max(verdict.known_us for verdict in held) // DAY_US

    def _held(self, policy: str | None) -> _Verdict:
        verdicts = self.verdicts.get(policy, set()) if policy is not None else set()
        reversals = [self.undone[key] for key in (policy, None) if key in self.undone]
        if not reversals:
            return max(verdicts)
        last = max(reversals)
        later = {one for one in verdicts if one.reviewed_us > last.reversed_us}
        return max(later) if later else _Verdict(True, last.known_us, last.reversed_us, True)


class _Prices:
    """Running median of the newest log prices of one category and currency."""

    def __init__(self) -> None:
        self._arrived: list[tuple[int, int, float]] = []
        self._sorted: list[float] = []

    def add(self, at_us: int, submission: int, log_price: float) -> None:
        insort(self._arrived, (at_us, submission, log_price))
        insort(self._sorted, log_price)
        if len(self._arrived) > _MAX_PRICES:
            oldest = self._arrived.pop(0)[2]
            del self._sorted[bisect_left(self._sorted, oldest)]

    def median(self) -> float | None:
        enough = len(self._sorted) >= _MIN_PRICES
        return self._sorted[len(self._sorted) // 2] if enough else None


class ActivityState:
    """Counts and rates per seller, device, address and price level.

    Rows stay small whatever happens; what is remembered of single events grows with their number.
    """

    def __init__(self) -> None:
        self._touched: set[tuple[RowKind, str]] = set()
        self._sellers: dict[str, SellerActivity] = {}
        self._devices: defaultdict[str, PlaceActivity] = defaultdict(PlaceActivity)
        self._addresses: defaultdict[str, PlaceActivity] = defaultdict(PlaceActivity)
        self._prices: defaultdict[str, _Prices] = defaultdict(_Prices)
        self._seller_of: dict[str, str | None] = {}
        self._judged: defaultdict[str, _Judged] = defaultdict(_Judged)
        self._counted: set[str] = set()
        self._early: defaultdict[str, list[Callable[[], None]]] = defaultdict(list)

    def features(self, submission: Submission) -> tuple[npt.NDArray[np.float32], datetime | None]:
        """Return the behaviour of the seller just before `submission`.

        Args:
            submission: not observed yet; its time is the instant that the windows end at.

        Returns:
            behaviour_F, float32 in the order of `FEATURES`, NaN where unknown (no seller, no price to compare);
            and the time of the seller's newest event, None for a new seller.
        """
        rows = self.rows(Keys.of(submission))
        newest = from_us(rows.seller.newest_us) if rows.seller else None
        return behaviour(submission, rows), newest

    def rows(self, keys: Keys) -> Rows:
        """Return what is known under some keys."""
        return Rows(
            self._sellers.get(keys.seller) if keys.seller else None,
            self._devices.get(keys.device) if keys.device else None,
            self._addresses.get(keys.address) if keys.address else None,
            self._prices[keys.price].median()
            if keys.price and keys.price in self._prices
            else None,
        )

    def value_of(self, kind: RowKind, key: str) -> bytes | float | None:
        """Return one row as it is stored: bytes of activity, or a median price; None while nothing is known."""
        match kind:
            case RowKind.SELLER:
                return self._sellers[key].encode() if key in self._sellers else None
            case RowKind.DEVICE:
                return self._devices[key].encode() if key in self._devices else None
            case RowKind.ADDRESS:
                return self._addresses[key].encode() if key in self._addresses else None
            case RowKind.PRICE:
                return self._prices[key].median() if key in self._prices else None

    def drain(self) -> list[tuple[RowKind, str]]:
        """Return the rows that changed since the last call, in a fixed order."""
        found = sorted(self._touched)
        self._touched.clear()
        return found

    def observe(self, record: Record) -> None:
        """Count whatever says something about a seller."""
        match record:
            case Submission():
                self.observe_submission(record)
            case GroundTruth():
                self.observe_truth(record)
            case Report():
                self.observe_report(record)
            case Appeal():
                self.observe_appeal(record)
            case Reversal():
                self.observe_reversal(record)

    def observe_submission(self, submission: Submission) -> None:
        """Count an upload, once; call after `features`. Undated ones have no order, and are not counted."""
        submission_id, listing = submission.submission_id, submission.listing
        if submission_id in self._seller_of:
            return
        seller_id = None if is_undated(submission) else listing.seller_id
        self._seller_of[submission_id] = seller_id
        if is_undated(submission):
            return
        at_us, own = to_us(submission.submitted_at), mark(submission_id)
        if (key := price_key(submission)) and listing.price:
            self._prices[key].add(at_us, own, math.log(listing.price))
            self._touched.add((RowKind.PRICE, key))
        if seller_id is None:
            return
        device, address = listing.device_fingerprint, listing.address_fingerprint
        seller = self._seller(seller_id, at_us)
        seller.add_upload((at_us, own, mark(listing.listing_id)), device, address, listing.category)
        for kind, used, places in (
            (RowKind.DEVICE, device, self._devices),
            (RowKind.ADDRESS, address, self._addresses),
        ):
            if used:
                meet(places[used].sellers, seller_id, at_us // HOUR_US)
                self._touched.add((kind, used))
        for observe in self._early.pop(submission_id, ()):
            observe()

    def observe_truth(self, truth: GroundTruth) -> None:
        """Count what was established, at the time it became known; truths of one submission count once.

        Under one policy a finished appeal holds against any review, and otherwise the newest truth holds; a reversal
        holds against all that was established until then. A submission that violates any policy is a violation.
        Imported truth is not counted: nothing says when a marketplace would have known it.
        """
        if truth.source is TruthSource.IMPORT:
            return
        seller = self._of_submission(
            truth.submission_id, truth.known_at, lambda: self.observe_truth(truth)
        )
        if seller is None:
            return
        judged = self._judged[truth.submission_id]
        found = _Verdict(
            truth.source is TruthSource.APPEAL,
            to_us(truth.known_at),
            to_us(truth.reviewed_at),
            not truth.violates,
        )
        judged.verdicts[truth.policy].add(found)
        _count_outcome(seller, judged)

    def observe_reversal(self, reversal: Reversal) -> None:
        """Count an undone enforcement from when it became known: until it is judged again, nothing was violated.

        It clears a submission that nobody had judged too: somebody looked and found nothing.
        """
        seller = self._of_submission(
            reversal.submission_id, reversal.known_at, lambda: self.observe_reversal(reversal)
        )
        if seller is None:
            return
        judged = self._judged[reversal.submission_id]
        judged.undo(reversal.policy, _Undone(to_us(reversal.reversed_at), to_us(reversal.known_at)))
        _count_outcome(seller, judged)

    def observe_report(self, report: Report) -> None:
        """Count a user's report at its time, once."""
        seller = self._of_submission(
            report.submission_id, report.reported_at, lambda: self.observe_report(report)
        )
        hour = to_us(report.reported_at) // HOUR_US
        if seller and self._is_new(f"report:{report.report_id}"):
            _count(seller.reports, hour, seller.newest_us // HOUR_US - _MONTH_HOURS)

    def observe_appeal(self, appeal: Appeal) -> None:
        """Count a finished appeal when it was resolved, once; an open one says nothing yet."""
        if appeal.resolved_at is None or appeal.overturned is None:
            return
        seller = self._of_submission(
            appeal.submission_id, appeal.resolved_at, lambda: self.observe_appeal(appeal)
        )
        if seller and self._is_new(f"appeal:{appeal.appeal_id}"):
            counts = seller.won if appeal.overturned else seller.lost
            day = to_us(appeal.resolved_at) // DAY_US
            _count(counts, day, seller.newest_us // DAY_US - _QUARTER_DAYS)

    def _is_new(self, event: str) -> bool:
        is_new = event not in self._counted
        self._counted.add(event)
        return is_new

    def _seller(self, seller_id: str, at_us: int) -> SellerActivity:
        seller = self._sellers.setdefault(seller_id, SellerActivity(at_us, at_us))
        seller.see(at_us)
        self._touched.add((RowKind.SELLER, seller_id))
        return seller

    def _of_submission(
        self, submission_id: str, at: datetime, again: Callable[[], None]
    ) -> SellerActivity | None:
        """Return the seller of a submission; what comes before the submission itself waits for it."""
        if submission_id not in self._seller_of:
            self._early[submission_id].append(again)
            return None
        seller_id = self._seller_of[submission_id]
        return self._seller(seller_id, to_us(at)) if seller_id else None


def _count(counts: Counts, bucket: int, begin: int, by: int = 1) -> None:
    """Count in a bucket that a window can still hold."""
    if bucket >= begin:
        add(counts, bucket, by)


def _count_outcome(seller: SellerActivity, judged: _Judged) -> None:
    """Count one submission in the bucket where it belongs now, and no more where it was."""
    outcome = judged.outcome()
    if outcome == judged.counted:
        return
    if judged.counted:
        _count_verdict(seller, *judged.counted, by=-1)
    judged.counted = outcome
    _count_verdict(seller, *outcome, by=1)


def _count_verdict(seller: SellerActivity, violates: bool, day: int, *, by: int) -> None:
    counts = seller.violations if violates else seller.cleared
    _count(counts, day, seller.newest_us // DAY_US - _QUARTER_DAYS, by)
