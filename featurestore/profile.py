"""What sellers look like at one instant: the batch view `seller_profile`, for windows of drift and for monitoring.

A profile is the behaviour behind an upload that the seller does not make: what the upload itself would bring (price,
device, address, the listing that is put up again) is unknown, which is null in history and online, never NaN.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import duckdb
from feast import FeatureStore

from featurestore.history import behaviour_at
from featurestore.layout import ACTIVITY, CREATED, EVENT_TIME, STREAM, Place, history_folder
from featurestore.locks import reading, writing_rows
from featurestore.quiet import quiet_feast
from featurestore.sinks import answering
from featurestore.view_rows import Row, ViewRows
from moderation.activity_rows import RowKind, from_us
from moderation.features import FEATURE_NAMES, FEATURES
from moderation.listing import Listing, Submission

PROFILE: Final = "seller_profile"

ACTIVE: Final = timedelta(seconds=max(feature.window_s or 0 for feature in FEATURES))
"""A seller of whom nothing happened for so long has empty windows, and no profile."""

_OF_AN_UPLOAD: Final = ("resubmissions_24h",)
"""Zero for an upload of no listing; of a seller alone it is unknown."""

_SELLERS: Final = 5_000
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True)
class Profiled:
    """What one batch did."""

    sellers: int
    """Profiles that were written to the history."""

    is_online: bool
    """Whether they went online; not where those of a later instant are there already."""

    through: datetime | None
    """Up to when the stream had come; profiles of a later instant miss what it has not counted."""


def write_profiles(store: FeatureStore, place: Place, as_of: datetime, now: datetime) -> Profiled:
    """Write the profile of every active seller at an instant; the same instant again takes the place of the first.

    Online goes what is newer than the batch before, by Feast's own incremental materialisation.

    Args:
        store: of `place`.
        place: of the feature store.
        as_of: the instant, with a time zone.
        now: when it is computed; profiles are known from then on.

    Raises:
        ValueError: if the instant has not come yet.
        FeatureStoreUnavailable: if the online store cannot be written; then run it again.
    """
    if as_of > now:
        raise ValueError(f"{as_of.isoformat()} has not come yet; profile an instant of the past")
    rows = ViewRows(store, place)
    with writing_rows(place.folder):
        found = [
            row
            for sellers in _chunks(active_sellers(place, as_of))
            for row in _profiles(place, sellers, as_of, now)
        ]
        rows.append(PROFILE, f"{as_of:%Y%m%dT%H%M%S%f}", found)
        is_online = _materialise(store, as_of)
    [beat] = rows.newest(STREAM, [{"stream_id": ACTIVITY}], ["through_us"])
    through = from_us(beat["through_us"]) if beat["through_us"] else None
    return Profiled(len(found), is_online, through)


def active_sellers(place: Place, as_of: datetime) -> list[str]:
    """Return the sellers of whom anything happened in the longest window before an instant, as was known then."""
    files = str(history_folder(place.folder, RowKind.SELLER.view) / "*.parquet").replace("'", "''")
    key = RowKind.SELLER.join_key
    with reading(place.folder), duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.execute(
            f"SELECT DISTINCT {key} FROM read_parquet('{files}')"
            f" WHERE greatest({EVENT_TIME}, {CREATED}) < ? AND {EVENT_TIME} >= ? ORDER BY {key}",
            [as_of, as_of - ACTIVE],
        ).fetchall()
    return [seller for (seller,) in found]


def _profiles(
    place: Place, sellers: Sequence[str], as_of: datetime, now: datetime
) -> Iterator[Row]:
    asked = [
        Submission(
            submission_id="profile",
            listing=Listing(listing_id="profile", seller_id=seller),
            submitted_at=as_of,
        )
        for seller in sellers
    ]
    for seller, values_F in zip(sellers, behaviour_at(place.folder, asked).tolist(), strict=True):
        values = {
            name: None if value != value or name in _OF_AN_UPLOAD else value
            for name, value in zip(FEATURE_NAMES, values_F, strict=True)
        }
        yield {RowKind.SELLER.join_key: seller, **values, EVENT_TIME: as_of, CREATED: now}


def _materialise(store: FeatureStore, as_of: datetime) -> bool:
    """Move online what is newer than the batch before; return whether `as_of` was."""
    view = store.get_feature_view(PROFILE)
    before, end = view.most_recent_end_time, as_of + _TICK
    if before is not None and end <= before:
        return False
    with answering(PROFILE), _silent():
        if before is None:
            # Incrementally, the first time, Feast goes back by the ttl from the machine's own time.
            store.materialize(as_of, end, feature_views=[PROFILE])
        else:
            # Both ends of Feast's interval count: the next begins a tick behind this batch, so nothing moves twice.
            store.materialize_incremental(end, feature_views=[PROFILE])
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Feast's progress bars out of the way; errors still raise."""
    with (
        open(os.devnull, "w") as nowhere,
        quiet_feast(),
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _chunks(sellers: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(sellers), _SELLERS):
        yield sellers[begin : begin + _SELLERS]
