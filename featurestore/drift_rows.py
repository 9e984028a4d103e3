"""Signals and states of drift: written only where every field is right and the window new, read only while they hold.

Each key has one writer, which counts its windows up. What was said of a window can be corrected by the next number; a
signal that is not there, or past its end, is no data, which is not the same as no drift.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb
from feast.types import FeastType, Float64, Int64, String

from featurestore.definitions import DRIFT_SIGNAL, DRIFT_STATE, OPTIONAL
from featurestore.layout import CREATED, EVENT_TIME, Place, history_folder
from featurestore.locks import reading, writing_rows
from featurestore.repository import open_store
from featurestore.view_rows import Row, ViewRows
from moderation.activity_rows import from_us, to_us
from moderation.clock import Clock
from moderation.errors import PermanentError

UNKNOWN: Final = 9
"""Status of what there is no data about."""

_STATUS: Final = {DRIFT_SIGNAL: "status", DRIFT_STATE: "max_status"}
_SEQUENCE: Final = "window_seq"
_TYPES: Final[Mapping[FeastType, tuple[str, tuple[type, ...]]]] = {
    String: ("a text", (str,)),
    Int64: ("a whole number", (int,)),
    Float64: ("a number", (int, float)),
}
_LATER: Final = timedelta(milliseconds=1)
"""A store drops a second row of one instant, so a correction of a window is so much later."""


class DriftRowRefused(PermanentError):
    """A row is not what its view holds; the message names view, key and field. Nothing was written."""


@dataclass(frozen=True)
class Reading:
    """What is known under one key now."""

    key: str
    row: Mapping[str, Any] | None
    """Every feature by name; None where there is no data."""

    why: str
    """`current`, `never written` or `expired`."""

    status: int
    """Of the row; 9 where there is no data."""


class DriftRows:
    """Writes and reads the views `drift_signal` and `drift_state` of one feature store."""

    def __init__(self, rows: ViewRows, place: Place, clock: Clock) -> None:
        self._rows, self._place, self._clock = rows, place, clock

    def write(self, view: str, rows: Sequence[Row]) -> int:
        """Write rows into history and online store, all or none, and return how many were new.

        Rows that are there already, field by field, only go online again: so a write that failed can be repeated.

        Args:
            view: `drift_signal` or `drift_state`.
            rows: key, features and `event_timestamp`, the end of the window with its time zone. Optional fields may
                be left out.

        Raises:
            DriftRowRefused: for an unknown, missing or wrong field, NaN, a time without zone, an end before the
                window's, or a window that is not newer than what is stored.
            FeatureStoreUnavailable: if the online store cannot be written; then write the same rows again.
        """
        if view not in _STATUS:
            raise DriftRowRefused(f"{view} is no view of drift; write {' or '.join(_STATUS)}")
        for row in rows:
            self._check(view, row)
        now = self._clock.now()
        with writing_rows(self._place.folder):
            fresh, known = self._numbered(view, rows, now)
            self._rows.append(view, f"{now:%Y%m%dT%H%M%S%f}-{_first(fresh)}", fresh)
            self._rows.push(view, [*known, *fresh])
        return len(fresh)

    def read(self, view: str, keys: Iterable[str]) -> list[Reading]:
        """Return what is known under each key now, in one round trip.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be read; that is no data either.
        """
        asked, name = list(keys), self._key_of(view)
        if not asked:
            return []
        found = self._rows.newest(view, [{name: key} for key in asked])
        now_us = to_us(self._clock.now())
        return [_reading(view, key, row, now_us) for key, row in zip(asked, found, strict=True)]

    def _key_of(self, view: str) -> str:
        [column] = self._rows.view(view).entity_columns
        return column.name

    def _check(self, view: str, row: Row) -> None:
        declared = self._rows.view(view)
        key = self._key_of(view)
        fields = {one.name: one for one in [*declared.entity_columns, *declared.features]}
        where = f"{view} {row.get(key, '(no key)')}"
        unknown = sorted(set(row) - set(fields) - {EVENT_TIME})
        if unknown:
            raise DriftRowRefused(f"{where}: {', '.join(unknown)}: not declared in the view")
        for name, field in fields.items():
            is_optional = field.tags.get(OPTIONAL) == "true"
            wrong = _wrong(row.get(name), field.dtype, is_optional=is_optional)
            if wrong:
                raise DriftRowRefused(f"{where}: {name} {wrong}")
        at = row.get(EVENT_TIME)
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise DriftRowRefused(f"{where}: {EVENT_TIME} must be a time with a time zone")
        if row["expires_us"] <= to_us(at):
            raise DriftRowRefused(f"{where}: expires_us is not behind the end of its window")

    def _numbered(
        self, view: str, rows: Sequence[Row], now: datetime
    ) -> tuple[list[Row], list[Row]]:
        """Return the rows that are new, each later than what is stored, and those that are stored already."""
        key, newest = self._key_of(view), self._stored(view, rows)
        fresh: list[Row] = []
        known: list[Row] = []
        for row in rows:
            before = newest.get(row[key])
            if before and row[_SEQUENCE] == before[_SEQUENCE] and _is_same(row, before):
                known.append(before)
                continue
            if before and row[_SEQUENCE] <= before[_SEQUENCE]:
                raise DriftRowRefused(
                    f"{view} {row[key]}: window_seq {row[_SEQUENCE]} is not above {before[_SEQUENCE]}, which is stored;"
                    " count windows up, and correct one by the next number"
                )
            at = max(row[EVENT_TIME], before[EVENT_TIME] + _LATER) if before else row[EVENT_TIME]
            newest[row[key]] = {**row, EVENT_TIME: at, CREATED: now}
            fresh.append(newest[row[key]])
        return fresh, known

    def _stored(self, view: str, rows: Sequence[Row]) -> dict[str, Row]:
        """Return the row of the highest window under each key, from the history."""
        key = self._key_of(view)
        files = str(history_folder(self._place.folder, view) / "*.parquet").replace("'", "''")
        with reading(self._place.folder), duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            found = connection.execute(
                f"SELECT * FROM read_parquet('{files}') WHERE list_contains(?, {key})"
                f" QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {_SEQUENCE} DESC) = 1",
                [[row[key] for row in rows]],
            ).to_arrow_table()
        return {row[key]: row for row in found.to_pylist()}


def open_drift_rows(place: Place, clock: Clock) -> DriftRows:
    """Return the rows of drift of a feature store.

    Raises:
        FeaturesNotReady: if nothing was set up.
    """
    return DriftRows(ViewRows(open_store(place), place), place, clock)


def _wrong(value: object, dtype: FeastType, *, is_optional: bool) -> str | None:
    """Return what is wrong with a value, or None."""
    if value is None:
        return None if is_optional else "is missing"
    said, types = _TYPES[dtype]
    if isinstance(value, bool) or not isinstance(value, types):
        return f"must be {said}, not {type(value).__name__}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}; leave out what nobody knows" if is_optional else f"is {value}"
    if isinstance(value, str) and not value and not is_optional:
        return "is empty"
    return None


def _is_same(row: Row, stored: Row) -> bool:
    times = (EVENT_TIME, CREATED)
    return all(row.get(name) == value for name, value in stored.items() if name not in times)


def _first(rows: Sequence[Row]) -> int:
    """Return the first window of a batch, for the name of its file."""
    return int(rows[0][_SEQUENCE]) if rows else 0


def _reading(view: str, key: str, row: Mapping[str, Any], now_us: int) -> Reading:
    expires_us = row["expires_us"]
    if expires_us is None:
        return Reading(key, None, "never written", UNKNOWN)
    if expires_us < now_us:
        return Reading(key, None, f"expired at {from_us(expires_us).isoformat()}", UNKNOWN)
    return Reading(key, row, "current", row[_STATUS[view]])
