"""The online side: the rows behind one upload in one round trip, checked for age, finished by the one function.

It reads what Feast wrote, where Feast put it; Feast's own client takes a round trip for each view, enforces no age and
tells a missing row from an empty one on one store only.
"""

import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import redis
from google.protobuf.message import DecodeError

from featurestore.layout import (
    ACTIVITY,
    PROJECT,
    STREAM,
    FeaturesNotReady,
    Place,
    without_secrets,
)
from featurestore.wire import Value, entity_key, key_prefix, redis_field
from moderation.activity_rows import ActivityRowError, RowKind, from_us, to_us
from moderation.behaviour import Keys, Rows, behaviour
from moderation.errors import FeatureStoreUnavailable
from moderation.features import FEATURES
from moderation.listing import Submission

_THROUGH: Final = "through_us"
_PROJECT: Final = PROJECT.encode()

Wanted = dict[str, list[bytes]]
"""View -> keys, each once."""

Stored = dict[tuple[str, bytes], bytes]
"""View and key -> value as Feast serialised it; absent where there is no row."""


@dataclass(frozen=True)
class BehaviourRead:
    """What the store knows of the behaviour behind one upload."""

    behaviour_F: npt.NDArray[np.float32]
    """In the order of `FEATURES`; NaN where unknown."""

    newest: datetime | None
    """Newest event of the seller in it; None for a new seller."""

    through: datetime | None
    """Everything that was known by then is in the rows; None where no stream ever wrote."""

    lag_s: float
    """How far the rows lie behind the upload; infinite for an upload of the past, and where no stream ever wrote."""

    stale: tuple[str, ...] = ()
    """Features that the lag makes worthless; their values are NaN."""

    empty: tuple[str, ...] = ()
    """Views whose row cannot be read: a fault, unlike a row that is not there; their features are NaN."""

    @property
    def unreadable(self) -> frozenset[str]:
        """Features of the views in `empty`."""
        return frozenset(
            FEATURES[place].name
            for kind, places in _READ_FROM.items()
            if kind.view in self.empty
            for place in places
        )


class OnlineRows(Protocol):
    """Where Feast keeps rows online."""

    def read(self, wanted: Wanted) -> Stored:
        """Return the values under the keys of some views, in one round trip.

        Raises:
            FeatureStoreUnavailable: if they cannot be read within the budget.
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
        return entity_key(self.prefix, text)


def _column(view: str, join_key: str, name: str) -> _Column:
    return _Column(view, name, key_prefix(join_key))


_COLUMNS: Final = {kind: _column(kind.view, kind.join_key, kind.column) for kind in RowKind}
_STREAM: Final = _column(STREAM, "stream_id", _THROUGH)
_STREAM_KEY: Final = _STREAM.key(ACTIVITY)
_BY_VIEW: Final = {column.view: column for column in (*_COLUMNS.values(), _STREAM)}


class SqliteRows:
    """Rows in the SQLite file that Feast writes; as many connections as there are readers at once."""

    def __init__(self, place: Place, budget_s: float) -> None:
        if not place.online_file.is_file():
            raise FeaturesNotReady(f"{place.online_file} is not there: tidegate features apply")
        self._file, self._budget_s = place.online_file, budget_s
        self._uri = f"file:{place.online_file}?mode=ro"
        self._idle: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        self._owner = self._whose()

    def read(self, wanted: Wanted) -> Stored:
        """Return the values under the keys of some views, by one statement."""
        shape = tuple((view, len(keys)) for view, keys in wanted.items())
        statement = " UNION ALL ".join(map(_select, shape))
        parameters = [key for keys in wanted.values() for key in keys]
        try:
            with self._connection() as connection:
                found = connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise FeatureStoreUnavailable(f"{self._uri}: {error}") from error
        return {(view, key): value for view, key, value in found}

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with suppress(Empty):
            while True:
                self._idle.get_nowait().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        if self._owner != (owner := self._whose()):
            self._idle, self._owner = SimpleQueue(), owner
        try:
            connection = self._idle.get_nowait()
        except Empty:
            connection = sqlite3.connect(
                self._uri, uri=True, timeout=self._budget_s, check_same_thread=False
            )
        try:
            yield connection
        except sqlite3.Error:
            connection.close()
            raise
        self._idle.put(connection)

    def _whose(self) -> tuple[int, int]:
        """Return what connections belong to: a forked process must not use its parent's, nor anybody a removed file."""
        try:
            return os.getpid(), os.stat(self._file).st_ino
        except OSError as error:
            raise FeatureStoreUnavailable(f"{self._file}: {error.strerror}") from error


@lru_cache(maxsize=1_024)
def _select(shape: tuple[str, int]) -> str:
    view, num_keys = shape
    return (
        f"SELECT '{view}', entity_key, value FROM \"{PROJECT}_{view}\""
        f" WHERE entity_key IN ({', '.join('?' * num_keys)})"
        f" AND feature_name = '{_BY_VIEW[view].name}'"
    )


class RedisRows:
    """Rows in the Redis that Feast writes."""

    def __init__(self, url: str, budget_s: float) -> None:
        self._client: Any = redis.Redis.from_url(
            url, socket_timeout=budget_s, socket_connect_timeout=budget_s
        )
        self._fields = {view: redis_field(view, one.name) for view, one in _BY_VIEW.items()}
        self._shown = without_secrets(url)

    def read(self, wanted: Wanted) -> Stored:
        """Return the values under the keys of some views, by one pipeline."""
        pipeline = self._client.pipeline(transaction=False)
        places = [(view, key) for view, keys in wanted.items() for key in keys]
        for view, key in places:
            pipeline.hget(key + _PROJECT, self._fields[view])
        try:
            values = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            raise FeatureStoreUnavailable(f"{self._shown}: {type(error).__name__}") from error
        return {
            place: value for place, value in zip(places, values, strict=True) if value is not None
        }

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
            FeatureStoreUnavailable: if the store does not answer within its budget.
        """
        return self.read_many([submission])[0]

    def read_many(self, submissions: Sequence[Submission]) -> list[BehaviourRead]:
        """Return the behaviour just before each upload, all in one round trip.

        Raises:
            FeatureStoreUnavailable: if the store does not answer within its budget.
        """
        places = [_places(submission) for submission in submissions]
        wanted: dict[str, dict[bytes, None]] = {STREAM: {_STREAM_KEY: None}}
        for found in places:
            for view, key in found.values():
                wanted.setdefault(view, {})[key] = None
        stored = self._rows.read({view: list(keys) for view, keys in wanted.items()})
        through = stored.get((STREAM, _STREAM_KEY))
        through_at = None if through is None else from_us(Value.FromString(through).int64_val)
        return [
            _finished(submission, found, stored, through_at)
            for submission, found in zip(submissions, places, strict=True)
        ]

    def close(self) -> None:
        """Give back connections."""
        self._rows.close()


def _places(submission: Submission) -> dict[RowKind, tuple[str, bytes]]:
    """Return view and key of each row that an upload is judged by."""
    keys = Keys.of(submission)
    return {
        kind: (column.view, column.key(key))
        for kind, column in _COLUMNS.items()
        if (key := keys[kind])
    }


def _finished(
    submission: Submission,
    places: Mapping[RowKind, tuple[str, bytes]],
    stored: Stored,
    through: datetime | None,
) -> BehaviourRead:
    """Return what the rows of one upload say at its instant."""
    rows, empty = Rows(), list[RowKind]()
    for kind, place in places.items():
        if (data := stored.get(place)) is None:
            continue
        try:
            rows = replace(rows, **_read_row(kind, data))
        except (ActivityRowError, DecodeError):
            empty.append(kind)
    behaviour_F = behaviour(submission, rows)
    for kind in empty:
        behaviour_F[_READ_FROM[kind]] = np.nan
    lag_s = math.inf
    if through is not None:
        lag_s = max(0.0, (submission.submitted_at - through) / timedelta(seconds=1))
    if rows.seller and rows.seller.newest_us > to_us(submission.submitted_at) + _MAX_AHEAD_US:
        lag_s = math.inf  # asked about the past: the rows have forgotten what was known then
    stale = _stale(lag_s) if lag_s > _LEAST_LAG_S else ()
    for index in stale:
        behaviour_F[index] = np.nan
    newest = from_us(rows.seller.newest_us) if rows.seller else None
    names = tuple(FEATURES[index].name for index in stale)
    return BehaviourRead(
        behaviour_F, newest, through, lag_s, names, tuple(one.view for one in empty)
    )


def _read_row(kind: RowKind, data: bytes) -> dict[str, Any]:
    """Return one row as a part of `Rows`.

    Raises:
        ActivityRowError: if it holds nothing, or no row.
        DecodeError: if it is no value of Feast's.
    """
    value = Value.FromString(data)
    if value.WhichOneof("val") is None:
        raise ActivityRowError(f"the row in {kind.view} holds nothing")
    stored = value.double_val if kind is RowKind.PRICE else value.bytes_val
    name = "log_price" if kind is RowKind.PRICE else kind.value
    return {name: getattr(Rows.of({kind: stored}), name)}


_OF_PLACES: Final = {
    RowKind.DEVICE: "sellers_on_device_30d",
    RowKind.ADDRESS: "sellers_on_address_30d",
    RowKind.PRICE: "price_log_ratio",
}
_READ_FROM: Final = {
    kind: [
        place
        for place, feature in enumerate(FEATURES)
        if (kind is RowKind.SELLER and feature.name not in _OF_PLACES.values())
        or feature.name == _OF_PLACES.get(kind)
    ]
    for kind in RowKind
}
"""Features that are unknown where a row cannot be read."""

_MAX_AHEAD_US: Final = 60_000_000
_MAX_LAG_F: Final[Sequence[float]] = [feature.max_lag_s for feature in FEATURES]
_LEAST_LAG_S: Final = min(_MAX_LAG_F)


def _stale(lag_s: float) -> tuple[int, ...]:
    return tuple(place for place, limit in enumerate(_MAX_LAG_F) if lag_s > limit)
