"""The offline side: Parquet files that grow as the stream goes, and what was known of an upload at its instant.

A row of history is valid from `event_timestamp` on, and was known from `created_timestamp` on. N rows, F features.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView
from feast.type_map import feast_value_type_to_pa

from featurestore.definitions import BEHAVIOUR, CREATED, EVENT_TIME, history_folder
from featurestore.quiet import quiet_feast
from moderation.activity_rows import Keys, RowKind
from moderation.errors import PermanentError
from moderation.features import FEATURE_NAMES
from moderation.listing import Submission

Floats = npt.NDArray[np.float32]

_INSTANT: Final = pa.timestamp("us", tz="UTC")
_JUST_BEFORE: Final = timedelta(microseconds=1)
_SUBMISSION: Final = "submission"
# No key of a real row: an identifier is never empty.
_NOBODY: Final = ""


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


def ensure_history(folder: Path, view: FeatureView) -> None:
    """Make the folder of a view, with a file that holds its columns and no rows: no store reads an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = [*view.entity_columns, *view.features]
    fields = [(one.name, feast_value_type_to_pa(one.dtype.to_value_type())) for one in columns]
    schema = pa.schema([*fields, (EVENT_TIME, _INSTANT), (CREATED, _INSTANT)])
    _write(pa.Table.from_pylist([], schema=schema), folder / "part-empty.parquet")


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
        _write(table, history_folder(folder, kind.view) / f"part-{name}.parquet")


def behaviour_at(
    store: FeatureStore, submissions: Sequence[Submission], *, is_known_only: bool = True
) -> Floats:
    """Return the behaviour behind uploads as it was known just before each: behaviour_NF, NaN where unknown.

    Args:
        store: of the home.
        submissions: N uploads, in any order; they need not be in the history.
        is_known_only: leave out what became known after an upload, whatever event time it carries. Only the test of
            leaks turns it off.

    Raises:
        HistoryError: if the join does not give back exactly the rows that were asked for.
    """
    if not submissions:
        return np.empty((0, len(FEATURE_NAMES)), np.float32)
    asked = pd.DataFrame(
        {
            "row": np.arange(len(submissions), dtype=np.int64),
            EVENT_TIME: pd.to_datetime(
                [one.submitted_at.astimezone(UTC) - _JUST_BEFORE for one in submissions]
            ).astype("datetime64[us, UTC]"),
            _SUBMISSION: [one.model_dump_json() for one in submissions],
            **_key_columns(submissions),
        }
    )
    with quiet_feast():
        found = store.get_historical_features(
            entity_df=asked,
            features=store.get_feature_service(BEHAVIOUR),
            filter_by_created_timestamp=is_known_only,
        ).to_df()
    order = found["row"].to_numpy()
    if len(order) != len(asked) or not np.array_equal(np.sort(order), asked["row"].to_numpy()):
        raise HistoryError(f"{len(asked)} uploads were asked about, {len(order)} came back")
    behaviour_NF = found[list(FEATURE_NAMES)].to_numpy(np.float32)
    ordered: Floats = np.empty_like(behaviour_NF)
    ordered[order] = behaviour_NF
    return ordered


def _key_columns(submissions: Sequence[Submission]) -> dict[str, list[str]]:
    keys = [Keys.of(one) for one in submissions]
    return {kind.join_key: [one[kind] or _NOBODY for one in keys] for kind in RowKind}


def _write(table: pa.Table, path: Path) -> None:
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
