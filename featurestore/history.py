"""The offline side: Parquet files that grow as the stream goes, and what was known of an upload at its instant.

A row of history is valid from `event_timestamp` on, and was known from `created_timestamp` on. N rows, F features.
"""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.layout import CREATED, EMPTY_FILE, EVENT_TIME, history_folder
from featurestore.locks import reading
from moderation.activity_rows import RowKind
from moderation.behaviour import Keys, Rows, behaviour
from moderation.errors import PermanentError
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission

if TYPE_CHECKING:
    from feast import FeatureView

Floats = npt.NDArray[np.float32]

_INSTANT: Final = pa.timestamp("us", tz="UTC")
_JUST_BEFORE: Final = timedelta(microseconds=1)
_FETCHED: Final = 512


_PRUNED: Final = "pruned.json"


class HistoryError(PermanentError):
    """The history cannot answer for every row that was asked about."""


@dataclass(frozen=True, slots=True)
class ActivityRow:
    """One version of one row of activity."""

    kind: RowKind
    key: str
    value: bytes | float
    event_time: datetime
    """Newest event in it, and later than that of the version before."""

    created: datetime
    """When it became known."""


def ensure_history(folder: Path, view: "FeatureView") -> None:
    """Make the folder of a view, with a file that holds its columns and no rows: no store reads an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([], schema=history_schema(view))
    write_whole(table, folder / EMPTY_FILE)


def history_schema(view: "FeatureView") -> pa.Schema:
    """Return the columns of a view's files: keys, features, and the two times in microseconds."""
    from feast.type_map import (
        feast_value_type_to_pa,  # Feast takes seconds; a join needs none of it
    )

    columns = [*view.entity_columns, *view.features]
    fields = [(one.name, feast_value_type_to_pa(one.dtype.to_value_type())) for one in columns]
    return pa.schema([*fields, (EVENT_TIME, _INSTANT), (CREATED, _INSTANT)])


def append_activity(folder: Path, name: str, rows: Iterable[ActivityRow]) -> None:
    """Add versions of rows to the history, each kind in one file called `name`; a file of that name is replaced.

    So a batch that was cut off and is written again is there once.
    """
    by_kind: dict[RowKind, list[ActivityRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    for kind, found in by_kind.items():
        value_type = pa.float64() if kind is RowKind.PRICE else pa.binary()
        table = pa.table(
            {
                kind.join_key: pa.array([row.key for row in found], pa.string()),
                kind.column: pa.array([row.value for row in found], value_type),
                EVENT_TIME: pa.array([row.event_time for row in found], _INSTANT),
                CREATED: pa.array([row.created for row in found], _INSTANT),
            }
        )
        write_whole(table, history_folder(folder, kind.view) / f"part-{name}.parquet")


def pruned_until(folder: Path) -> datetime | None:
    """Return the instant up to which rows of activity were taken away; None where none were."""
    try:
        text = (folder / _PRUNED).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return datetime.fromisoformat(json.loads(text)["until"])


def note_pruned(folder: Path, until: datetime) -> None:
    """Take note that rows of activity up to an instant go; to be called before they do."""
    before = pruned_until(folder)
    newest = until if before is None else max(before, until)
    partial = folder / f".{_PRUNED}.{os.getpid()}"
    partial.write_text(json.dumps({"until": newest.isoformat()}), encoding="utf-8")
    partial.replace(folder / _PRUNED)


def behaviour_at(
    folder: Path,
    submissions: Sequence[Submission],
    *,
    known_by: Sequence[datetime | None] | None = None,
    is_known_only: bool = True,
) -> Floats:
    """Return the behaviour behind uploads as it was known just before each: behaviour_NF, NaN where unknown.

    Of an upload from before rows were taken away by their age nothing is known any more: that is no newcomer.

    The join is DuckDB's own, over the files that Feast reads: Feast's pairs every version with every later upload of
    the same key, which takes gigabytes for one busy seller. A test compares the two.

    Args:
        folder: of the feature store.
        submissions: N uploads, in any order; they need not be in the history.
        known_by: for each upload, the instant to take what was known by; None and without it, just before the upload.
        is_known_only: leave out what became known after an upload, whatever event time it carries. Only the test of
            leaks turns it off.

    Raises:
        HistoryError: if the join does not give back exactly the rows that were asked for.
    """
    found: Floats = np.full((len(submissions), len(FEATURE_NAMES)), np.nan, np.float32)
    if not submissions:
        return found
    keys = [Keys.of(one) for one in submissions]
    asked = pa.table(
        {
            "row": np.arange(len(submissions), dtype=np.int64),
            "instant": pa.array(_instants(submissions, known_by), _INSTANT),
            **{
                kind.join_key: pa.array([one[kind] for one in keys], pa.string())
                for kind in RowKind
            },
        }
    )
    is_there = np.zeros(len(submissions), bool)
    with reading(folder), duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.register("asked", asked)
        answer = connection.execute(_join_sql(folder, is_known_only=is_known_only))
        while rows := answer.fetchmany(_FETCHED):
            for row, *values in rows:
                known = Rows.of(dict(zip(RowKind, values, strict=True)))
                found[row], is_there[row] = behaviour(submissions[row], known), True
    if (gone := pruned_until(folder)) is not None:
        found[[one.submitted_at <= gone for one in submissions]] = np.nan
    if not is_there.all():
        raise HistoryError(
            f"{len(submissions)} uploads were asked about, {is_there.sum()} came back"
        )
    return found


def _instants(
    submissions: Sequence[Submission], known_by: Sequence[datetime | None] | None
) -> list[datetime]:
    instants = [one.submitted_at - _JUST_BEFORE for one in submissions]
    if known_by is None:
        return instants
    return [by or at for at, by in zip(instants, known_by, strict=True)]


def known_between(
    folder: Path, submission: Submission, begin: datetime, end: datetime
) -> list[datetime]:
    """Return the instants after `begin` and before `end` at which more became known of an upload's rows, in order."""
    keys = Keys.of(submission)
    parts, values = [], list[Any]()
    for kind in RowKind:
        if key := keys[kind]:
            files = str(history_folder(folder, kind.view) / "*.parquet")
            parts.append(
                f"SELECT greatest({EVENT_TIME}, {CREATED}) AS since FROM read_parquet(?)"
                f" WHERE {kind.join_key} = ?"
            )
            values += [files, key]
    if not parts:
        return []
    with reading(folder), duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        found = connection.execute(
            f"SELECT DISTINCT since FROM ({' UNION ALL '.join(parts)})"
            " WHERE since > ? AND since < ? ORDER BY since",
            [*values, begin, end],
        ).fetchall()
    return [since for (since,) in found]


def _join_sql(folder: Path, *, is_known_only: bool) -> str:
    """Return the statement that finds, for each upload, the newest version of each of its rows.

    Which version it is is found by its times alone; what it holds is looked up afterwards, once.
    """
    since = f"greatest({EVENT_TIME}, {CREATED})" if is_known_only else EVENT_TIME
    newest, contents = [], []
    for kind in RowKind:
        key, files = kind.join_key, str(history_folder(folder, kind.view) / "*.parquet")
        table = "read_parquet('" + files.replace("'", "''") + "')"
        # Of versions that became known at once, the newest holds.
        newest.append(
            f"ASOF LEFT JOIN (SELECT {key}, {since} AS since, max({EVENT_TIME}) AS version"
            f" FROM {table} GROUP BY ALL) AS {kind}"
            f" ON asked.{key} = {kind}.{key} AND asked.instant >= {kind}.since"
        )
        contents.append(
            f"LEFT JOIN {table} AS {kind}"
            f" ON found.{key} = {kind}.{key} AND found.{kind}_version = {kind}.{EVENT_TIME}"
        )
    versions = ", ".join(f"asked.{k.join_key}, {k}.version AS {k}_version" for k in RowKind)
    columns = ", ".join(f"{kind}.{kind.column}" for kind in RowKind)
    return (
        f"WITH found AS (SELECT asked.row, {versions} FROM asked {' '.join(newest)})"
        f" SELECT found.row, {columns} FROM found {' '.join(contents)}"
    )


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a file that is whole or not there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def frame(rows: Sequence[ActivityRow]) -> pd.DataFrame:
    """Return versions of rows of one kind as Feast's push expects them."""
    kind = rows[0].kind
    columns: dict[str, Any] = {
        kind.join_key: [row.key for row in rows],
        kind.column: [row.value for row in rows],
        EVENT_TIME: pd.to_datetime([row.event_time for row in rows]).astype("datetime64[us, UTC]"),
        CREATED: pd.to_datetime([row.created for row in rows]).astype("datetime64[us, UTC]"),
    }
    return pd.DataFrame(columns)
