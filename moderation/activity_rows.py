"""What is kept of a seller, a device, an address and a price level: the rows of a feature store, as bytes.

Windows are kept as time buckets and finished when they are read (`moderation.behaviour`), so they decay between events:
an upload, a report or a verdict leaves its window by itself. Instants are microseconds since 1970 in UTC.
"""

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from sys import byteorder
from typing import Final

from moderation.errors import PermanentError

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
MONTH_US: Final = 30 * DAY_US
QUARTER_US: Final = 90 * DAY_US

MAX_RECENT: Final = 2_048
"""Uploads of the last day that are kept one by one; a seller with more counts as one with so many."""

MAX_PLACES: Final = 512
"""Devices, addresses, categories or sellers that are told apart; the longest unseen are forgotten first."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_VERSION: Final = 1

Counts = dict[int, int]
Upload = tuple[int, int, int]
"""Instant, mark of the submission, mark of the listing."""


class RowKind(StrEnum):
    """What a row of activity is about; the feature store has a view for each."""

    SELLER = "seller"
    DEVICE = "device"
    ADDRESS = "address"
    PRICE = "price"

    @property
    def view(self) -> str:
        """Name of its feature view."""
        return f"{self}_activity"

    @property
    def join_key(self) -> str:
        """Column that its rows are found by."""
        return f"{self}_id"

    @property
    def column(self) -> str:
        """The one value of its rows: bytes, but for prices, whose row is the median of their logarithms."""
        return "log_price" if self is RowKind.PRICE else f"{self}_row"


class ActivityRowError(PermanentError):
    """Bytes are not a row of this release; remove the folder `features` of the home and set it up again."""


def to_us(instant: datetime) -> int:
    """Return microseconds since 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def from_us(instant_us: int) -> datetime:
    """Return the UTC instant of `to_us`."""
    return _EPOCH + timedelta(microseconds=instant_us)


@lru_cache(maxsize=65_536)
def mark(text: str) -> int:
    """Return 64 bits that stand for an id: shorter than it, and no secret, as whoever guesses the id can tell."""
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass
class SellerActivity:
    """What a seller did, in buckets; the same events give the same row in whatever order they come."""

    first_us: int
    newest_us: int
    recent: list[Upload] = field(default_factory=list)
    """Of the day before the newest event, ascending."""

    uploads: Counts = field(default_factory=dict)
    """By hour since 1970; of 30 days."""

    devices: Counts = field(default_factory=dict)
    """Mark -> hour that it was last used in."""

    addresses: Counts = field(default_factory=dict)
    categories: Counts = field(default_factory=dict)
    reports: Counts = field(default_factory=dict)
    """By hour; of 30 days."""

    violations: Counts = field(default_factory=dict)
    """Submissions that were found to violate, by day since 1970; of 90 days."""

    cleared: Counts = field(default_factory=dict)
    lost: Counts = field(default_factory=dict)
    won: Counts = field(default_factory=dict)

    def see(self, at_us: int) -> None:
        """Take note that something happened, and forget what no window from then on can hold."""
        self.first_us = min(self.first_us, at_us)
        if at_us <= self.newest_us:
            return
        self.newest_us = at_us
        del self.recent[: bisect_left(self.recent, (at_us - DAY_US,))]
        month, quarter = (at_us - MONTH_US) // HOUR_US, (at_us - QUARTER_US) // DAY_US
        for counts in (self.uploads, self.reports):
            _forget_before(counts, month)
        for seen in (self.devices, self.addresses, self.categories):
            for gone in [one for one, hour in seen.items() if hour < month]:
                del seen[gone]
        for counts in (self.violations, self.cleared, self.lost, self.won):
            _forget_before(counts, quarter)

    def add_upload(
        self, upload: Upload, device: str | None, address: str | None, category: str | None
    ) -> None:
        """Count one upload; what is older than every window is not kept."""
        self.see(upload[0])
        hour = upload[0] // HOUR_US
        if upload[0] >= self.newest_us - DAY_US:
            insort(self.recent, upload)
            del self.recent[:-MAX_RECENT]
        if hour < (self.newest_us - MONTH_US) // HOUR_US:
            return
        add(self.uploads, hour)
        for seen, used in (
            (self.devices, device),
            (self.addresses, address),
            (self.categories, category),
        ):
            if used is not None:
                meet(seen, used, hour)

    def encode(self) -> bytes:
        """Return the row as bytes; equal rows give equal bytes."""
        series: list[list[int]] = [[self.first_us, self.newest_us]]
        series += [list(column) for column in zip(*self.recent, strict=True)] or [[], [], []]
        for name in _COUNTED:
            items = sorted(getattr(self, name).items())
            series += [[key for key, _ in items], [value for _, value in items]]
        return _pack(series)

    @classmethod
    def decode(cls, data: bytes) -> "SellerActivity":
        """Return the row of `encode`.

        Raises:
            ActivityRowError: if it is not one.
        """
        times, at, submissions, listings, *counts = _unpack(data, 4 + 2 * len(_COUNTED))
        pairs = zip(counts[::2], counts[1::2], strict=True)
        recent = list(zip(at, submissions, listings, strict=True))
        return cls(times[0], times[1], recent, *(dict(zip(*pair, strict=True)) for pair in pairs))


_COUNTED: Final = tuple(
    one.name
    for one in fields(SellerActivity)
    if one.name not in ("first_us", "newest_us", "recent")
)


@dataclass
class PlaceActivity:
    """Which sellers used a device or an address."""

    sellers: Counts = field(default_factory=dict)
    """Mark -> hour that the seller last used it in."""

    def encode(self) -> bytes:
        """Return the row as bytes; equal rows give equal bytes."""
        items = sorted(self.sellers.items())
        return _pack([[key for key, _ in items], [value for _, value in items]])

    @classmethod
    def decode(cls, data: bytes) -> "PlaceActivity":
        """Return the row of `encode`.

        Raises:
            ActivityRowError: if it is not one.
        """
        sellers, hours = _unpack(data, 2)
        return cls(dict(zip(sellers, hours, strict=True)))


def add(counts: Counts, bucket: int, by: int = 1) -> None:
    """Change the count of a bucket; an empty one is not kept."""
    count = counts.get(bucket, 0) + by
    if count:
        counts[bucket] = count
    else:
        counts.pop(bucket, None)


def meet(seen: Counts, used: str, hour: int) -> None:
    """Take note of when something was last used; the longest unseen is forgotten where there are too many."""
    one = mark(used)
    seen[one] = max(hour, seen.get(one, hour))
    if len(seen) > MAX_PLACES:
        del seen[min(seen, key=lambda other: (seen[other], other))]


def _forget_before(counts: Counts, bucket: int) -> None:
    for gone in [one for one in counts if one < bucket]:
        del counts[gone]


def _pack(series: Iterable[list[int]]) -> bytes:
    """Return numbers as little-endian 64-bit integers: version, then each series behind its length."""
    flat = array("q", [_VERSION])
    for one in series:
        flat.append(len(one))
        flat.extend(one)
    if byteorder == "big":
        flat.byteswap()
    return flat.tobytes()


def _unpack(data: bytes, num_series: int) -> list[list[int]]:
    flat = array("q")
    try:
        flat.frombytes(data)
    except ValueError as error:
        raise ActivityRowError(f"{len(data)} bytes are no row of activity") from error
    if byteorder == "big":
        flat.byteswap()
    if not flat or flat[0] != _VERSION:
        found = flat[0] if flat else "nothing"
        raise ActivityRowError(f"a row of activity begins with {_VERSION}, this one with {found}")
    numbers, place, series = flat.tolist(), 1, list[list[int]]()
    for _ in range(num_series):
        if place >= len(numbers) or not 0 <= numbers[place] <= len(numbers) - place - 1:
            break
        end = place + 1 + numbers[place]
        series.append(numbers[place + 1 : end])
        place = end
    if len(series) != num_series or place != len(numbers):
        raise ActivityRowError(f"{len(data)} bytes are no row of activity: series break off")
    return series
