"""Rows that leave the online store because of their age, from SQLite or Redis, where Feast put them."""

import sqlite3
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any, Final

import pyarrow.parquet as pq
import redis
from google.protobuf.timestamp_pb2 import Timestamp

from featurestore.layout import (
    CREATED,
    EMPTY_FILE,
    EVENT_TIME,
    PROJECT,
    Place,
    history_folder,
    without_secrets,
)
from featurestore.wire import redis_field
from moderation.activity_rows import to_us
from moderation.errors import FeatureStoreUnavailable

_BUSY_S: Final = 10.0
_SCANNED: Final = 1_000


def expire_online(
    place: Place, horizons: Mapping[str, datetime], *, is_dry_run: bool = False
) -> dict[str, int]:
    """Take rows out of the online store, and return how many of each view.

    Args:
        place: of the feature store.
        horizons: view -> instant; a row whose event time is not behind it goes.
        is_dry_run: only count them.

    Raises:
        FeatureStoreUnavailable: if the online store cannot be reached.
    """
    limits = {view: to_us(at) for view, at in horizons.items()}
    if not place.redis_url:
        return _from_sqlite(place, limits, is_dry_run)
    try:
        with redis.Redis.from_url(place.redis_url, socket_timeout=_BUSY_S) as client:
            return _from_redis(client, place, limits, is_dry_run)
    except (redis.RedisError, OSError) as error:
        shown = without_secrets(place.redis_url)
        raise FeatureStoreUnavailable(f"{shown}: {type(error).__name__}") from error


def _from_sqlite(place: Place, limits: Mapping[str, int], is_dry_run: bool) -> dict[str, int]:
    found = {}
    try:
        connection = sqlite3.connect(f"file:{place.online_file}?mode=rw", uri=True, timeout=_BUSY_S)
        try:
            for view, limit in limits.items():
                rows = f'FROM "{PROJECT}_{view}" WHERE event_us <= ?'
                counted = connection.execute(f"SELECT count(DISTINCT entity_key) {rows}", (limit,))
                found[view] = int(counted.fetchone()[0])
                if found[view] and not is_dry_run:
                    with connection:
                        connection.execute(f"DELETE {rows}", (limit,))
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise FeatureStoreUnavailable(f"{place.online_file}: {error}") from error
    return found


def _from_redis(
    client: Any, place: Place, limits: Mapping[str, int], is_dry_run: bool
) -> dict[str, int]:
    """Look at every key once; one hash holds the rows of all views of an entity."""
    times = [f"_ts:{view}" for view in limits]
    found = dict.fromkeys(limits, 0)
    keys = client.scan_iter(match=b"*" + PROJECT.encode(), count=_SCANNED)
    while some := list(islice(keys, _SCANNED)):
        read, written = client.pipeline(transaction=False), client.pipeline(transaction=False)
        for key in some:
            read.hmget(key, times)
        for key, stored in zip(some, read.execute(), strict=True):
            for (view, limit), at in zip(limits.items(), stored, strict=True):
                if at is not None and Timestamp.FromString(at).ToMicroseconds() <= limit:
                    found[view] += 1
                    written.hdel(key, f"_ts:{view}", *_fields(place, view))
        if not is_dry_run:
            written.execute()
    return found


@cache
def _fields(place: Place, view: str) -> tuple[bytes, ...]:
    """Return the fields that a row of a view has in its hash."""
    columns = pq.read_schema(history_folder(place.folder, view) / EMPTY_FILE).names
    return tuple(redis_field(view, name) for name in columns if name not in (EVENT_TIME, CREATED))
