"""The online side: the rows behind one upload in one round trip, checked for age, finished by the one function.

It reads what Feast wrote, where Feast put it; Feast's own client takes a round trip for each view, enforces no age and
tells a missing row from an empty one on one store only.
"""

import math
import sqlite3
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from featurestore.definitions import STREAM
from featurestore.repository import PROJECT, FeaturesNotReady, Place
from featurestore.sinks import ACTIVITY, FeaturesUnavailable
from moderation.activity_rows import ActivityRowError, Keys, RowKind, Rows, behaviour, from_us
from moderation.features import FEATURES
from moderation.listing import Submission

_KEY_VERSION: Final = 3
_THROUGH: Final = "through_us"

Stored = dict[str, bytes]
"""View -> value as Feast serialised it; a view is absent where there is no row."""


@dataclass(frozen=True)
class BehaviourRead:
    """What the store knows of the behaviour behind one upload."""

    behaviour_F: npt.NDArray[np.float32]
    """In the order of `FEATURES`; NaN where unknown."""

    newest: datetime | None
    """Newest event of the seller in it; None for a new seller."""

    lag_s: float
    """How far the rows lie behind the upload; infinite where no stream has ever written."""

    stale: tuple[str, ...] = ()
    """Features that the lag makes worthless; their values are NaN."""

    empty: tuple[str, ...] = ()
    """Views whose row holds nothing: a fault upstream, unlike a row that is not there."""


class OnlineRows(Protocol):
    """Where Feast keeps rows online."""

    def read(self, keys: Mapping[str, bytes]) -> Stored:
        """Return the values under the keys of some views, in one round trip.

        Raises:
            FeaturesUnavailable: if they cannot be read within the budget.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


@dataclass(frozen=True)
class _Column:
    """Where the one value of a view lies."""

    view: str
    name: str
    prefix: bytes
    """Serialised entity key up to the length of the key's own text."""

    def key(self, text: str) -> bytes:
        """Return the entity key as Feast serialises it."""
        data = text.encode("utf-8")
        return self.prefix + struct.pack("<I", len(data)) + data


def _column(view: str, join_key: str, name: str) -> _Column:
    empty = EntityKey(join_keys=[join_key], entity_values=[Value(string_val="")])
    serialised = serialize_entity_key(empty, entity_key_serialization_version=_KEY_VERSION)
    return _Column(view, name, serialised[: -struct.calcsize("<I")])


_COLUMNS: Final = {kind: _column(kind.view, kind.join_key, kind.column) for kind in RowKind}
_STREAM: Final = _column(STREAM, "stream_id", _THROUGH)
_STREAM_KEY: Final = _STREAM.key(ACTIVITY)
_BY_VIEW: Final = {column.view: column for column in (*_COLUMNS.values(), _STREAM)}


class SqliteRows:
    """Rows in the SQLite file that Feast writes; each thread has its own connection."""

    def __init__(self, place: Place, budget_s: float) -> None:
        if not place.online_file.is_file():
            raise FeaturesNotReady(f"{place.online_file} is not there: tidegate features apply")
        self._uri = f"file:{place.online_file}?mode=ro"
        self._budget_s, self._local = budget_s, threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._statements: dict[tuple[str, ...], str] = {}

    def read(self, keys: Mapping[str, bytes]) -> Stored:
        """Return the values under the keys of some views, by one statement."""
        views = tuple(keys)
        statement = self._statements.get(views)
        if statement is None:
            statement = self._statements[views] = " UNION ALL ".join(map(_select, views))
        try:
            return dict(self._connection().execute(statement, list(keys.values())).fetchall())
        except sqlite3.Error as error:
            raise FeaturesUnavailable(f"{self._uri}: {error}") from error

    def close(self) -> None:
        """Close the connections of every thread."""
        for connection in self._opened:
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self._uri, uri=True, timeout=self._budget_s, check_same_thread=False
            )
            found.execute("PRAGMA query_only = 1")
            self._local.connection = found
            self._opened.append(found)
        return found


def _select(view: str) -> str:
    name = _BY_VIEW[view].name
    return (
        f"SELECT '{view}', value FROM \"{PROJECT}_{view}\""
        f" WHERE entity_key = ? AND feature_name = '{name}'"
    )


class RedisRows:
    """Rows in the Redis that Feast writes."""

    def __init__(self, url: str, budget_s: float) -> None:
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=budget_s, socket_connect_timeout=budget_s
        )
        self._fields = {view: _mmh3(f"{view}:{one.name}") for view, one in _BY_VIEW.items()}
        self._url = url

    def read(self, keys: Mapping[str, bytes]) -> Stored:
        """Return the values under the keys of some views, by one pipeline."""
        pipeline = self._client.pipeline(transaction=False)
        for view, key in keys.items():
            pipeline.hget(key + PROJECT.encode(), self._fields[view])
        try:
            values = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            raise FeaturesUnavailable(f"{self._url}: {error}") from error
        return {view: value for view, value in zip(keys, values, strict=True) if value is not None}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def open_rows(place: Place, budget_s: float) -> OnlineRows:
    """Return the online rows of a home.

    Args:
        place: of the feature store.
        budget_s: seconds that one read may take.

    Raises:
        FeaturesNotReady: if nothing was set up.
    """
    return RedisRows(place.redis_url, budget_s) if place.redis_url else SqliteRows(place, budget_s)


class OnlineReader:
    """Reads the behaviour behind uploads; safe to share between threads."""

    def __init__(self, rows: OnlineRows) -> None:
        self._rows = rows

    def read(self, submission: Submission) -> BehaviourRead:
        """Return the behaviour just before `submission`.

        Raises:
            FeaturesUnavailable: if the store does not answer within its budget.
        """
        keys = Keys.of(submission)
        wanted = {STREAM: _STREAM_KEY}
        for kind, column in _COLUMNS.items():
            if key := keys[kind]:
                wanted[column.view] = column.key(key)
        stored = self._rows.read(wanted)
        values, empty = _values(stored)
        try:
            rows = Rows.of(values)
        except ActivityRowError as error:
            raise FeaturesUnavailable(str(error)) from error
        behaviour_F = behaviour(submission, rows)
        lag_s = self._lag_s(stored.get(STREAM), submission)
        stale = _stale(lag_s) if lag_s > _LEAST_LAG_S else ()
        for place in stale:
            behaviour_F[place] = np.nan
        return BehaviourRead(
            behaviour_F,
            from_us(rows.seller.newest_us) if rows.seller else None,
            lag_s,
            tuple(FEATURES[place].name for place in stale),
            tuple(empty),
        )

    def close(self) -> None:
        """Give back connections."""
        self._rows.close()

    def _lag_s(self, through: bytes | None, submission: Submission) -> float:
        if through is None:
            return math.inf
        through_us = Value.FromString(through).int64_val
        return max(0.0, (submission.submitted_at - from_us(through_us)) / timedelta(seconds=1))


def _values(stored: Stored) -> tuple[dict[RowKind, bytes | float | None], list[str]]:
    """Return the rows by kind, and the views whose row is there but holds nothing."""
    values: dict[RowKind, bytes | float | None] = {}
    empty = []
    for kind, column in _COLUMNS.items():
        data = stored.get(column.view)
        if data is None:
            continue
        value = Value.FromString(data)
        if value.WhichOneof("val") is None or value.HasField("null_val"):
            empty.append(column.view)
        elif kind is RowKind.PRICE:
            values[kind] = value.double_val
        else:
            values[kind] = value.bytes_val
    return values, empty


_MAX_LAG_F: Final[Sequence[float]] = [feature.max_lag_s for feature in FEATURES]
_LEAST_LAG_S: Final = min(_MAX_LAG_F)


def _stale(lag_s: float) -> tuple[int, ...]:
    return tuple(place for place, limit in enumerate(_MAX_LAG_F) if lag_s > limit)
