"""How long rows are kept, and what takes away the rest: past its days a row leaves history and online store.

On the way many small files become one. Whoever calls this holds the stream's writer lock; readers of the history are
waited for at the one moment at which files are exchanged, and never see a row twice or not at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

import duckdb

from featurestore.history import note_pruned
from featurestore.layout import CREATED, EMPTY_FILE, EVENT_TIME, STREAM, Place, history_folder
from featurestore.letters import RECORDS_PREFIX, DeadLetters, Progress
from featurestore.locks import reading, swapping, writing_rows
from featurestore.online_expiry import expire_online
from moderation.activity_rows import RowKind

_TRAINING_DAYS: Final = 365
"""Uploads of so many days can train."""

_WINDOW_DAYS: Final = 90
"""Longest window of a feature, and longest way of a truth."""


@dataclass(frozen=True)
class Retention:
    """How long rows of one view are kept."""

    keys: tuple[str, ...]
    days: int | None
    """After its event time; None keeps a row for ever."""

    is_state: bool = False
    """Whether the newest row of a key holds until the next one comes, however old it is."""

    reader: str | None = None
    """Prefix of what the stream that writes it keeps of itself; None where no stream does."""


_ACTIVITY: Final = {
    kind.view: Retention((kind.join_key,), _TRAINING_DAYS + _WINDOW_DAYS, is_state=True, reader="")
    for kind in RowKind
}
RETENTION: Final[Mapping[str, Retention]] = MappingProxyType(
    {
        **_ACTIVITY,
        "decisions": Retention(
            ("listing_id",), _TRAINING_DAYS + _WINDOW_DAYS, reader=RECORDS_PREFIX
        ),
        "ground_truth": Retention(
            ("listing_id", "policy_id"), _TRAINING_DAYS + _WINDOW_DAYS, reader=RECORDS_PREFIX
        ),
        "seller_profile": Retention(("seller_id",), 2 * _WINDOW_DAYS),
        "drift_signal": Retention(("signal_id",), _WINDOW_DAYS),
        "drift_state": Retention(("model_id",), _WINDOW_DAYS),
        STREAM: Retention(("stream_id",), None),
    }
)
"""Every view, and how long its rows are kept; `stream_state` holds one row per stream."""

_MANY_FILES: Final = 16
"""A view with more settled files than this is written anew although nothing of it is past its days."""

_NUMBER_CHARS: Final = 12
_MICROSECONDS: Final = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True)
class Pruned:
    """What was done to one view, or would be."""

    view: str
    rows: int
    """In history before."""

    dropped: int
    """Rows of history past their days, and rows that were there twice."""

    files: int
    """Of history before."""

    files_after: int
    online: int = 0
    """Rows that left the online store."""


def prune(place: Place, now: datetime, *, is_dry_run: bool = False) -> list[Pruned]:
    """Take what is past its days out of history and online store; call it while being the one writer.

    The newest version of each row of activity at the horizon stays, so that what was known at any later instant is
    what it was. What a stream may write again after a failure is left to the next time.

    Args:
        place: of the feature store.
        now: the instant that ages are counted to.
        is_dry_run: only say what would be done; then no lock is needed.

    Raises:
        FeatureStoreUnavailable: if the online store cannot be reached; histories are done by then.
    """
    horizons = {
        view: now - timedelta(days=kept.days)
        for view, kept in RETENTION.items()
        if kept.days is not None
    }
    fading = {view: at for view, at in horizons.items() if not RETENTION[view].is_state}
    with writing_rows(place.folder):
        done = [_History(place, view, at).prune(now, is_dry_run) for view, at in horizons.items()]
        online = expire_online(place, fading, is_dry_run=is_dry_run)
    return [replace(one, online=online.get(one.view, 0)) for one in done]


def settled_files(place: Place, view: str) -> list[Path]:
    """Return the files of a view that nobody will write again, by name; a stream that failed writes its last again."""
    found = sorted(history_folder(place.folder, view).glob("part-*.parquet"))
    files = [one for one in found if one.name != EMPTY_FILE]
    if (reader := RETENTION[view].reader) is None:
        return files
    progress = DeadLetters(place.stream_file, prefix=reader).progress()
    return [one for one in files if _is_settled(one, progress)]


def _is_settled(file: Path, progress: Progress | None) -> bool:
    if progress is None:
        return False
    number = file.stem.removeprefix("part-")
    is_batch = len(number) == _NUMBER_CHARS and number.isdigit()
    return not is_batch or int(number) <= progress.sequence


@dataclass(frozen=True)
class _History:
    """The settled files of one view, and the instant up to which its rows fade."""

    place: Place
    view: str
    horizon: datetime

    def prune(self, now: datetime, is_dry_run: bool) -> Pruned:
        """Write what stays as one file in the place of all, where that is worth it."""
        files = settled_files(self.place, self.view)
        if not files:
            return Pruned(self.view, 0, 0, 0, 0)
        with TemporaryDirectory(dir=self.place.folder, prefix=".prune-") as scratch:
            kept = Path(scratch) / "kept.parquet"
            with reading(self.place.folder):
                num_rows, num_kept = self._write(files, kept)
            is_due = num_kept < num_rows or len(files) > _MANY_FILES
            if is_due and not is_dry_run:
                if num_kept < num_rows and RETENTION[self.view].is_state:
                    note_pruned(self.place.folder, self.horizon)
                self._exchange(files, kept if num_kept else None, now)
        files_after = bool(num_kept) if is_due else len(files)
        return Pruned(self.view, num_rows, num_rows - num_kept, len(files), int(files_after))

    def _write(self, files: Sequence[Path], kept: Path) -> tuple[int, int]:
        """Write the rows that stay; return how many there were, and how many stay."""
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
            connection.execute(f"SET temp_directory = {_text(kept.parent)}")
            rows = f"read_parquet([{', '.join(map(_text, files))}])"
            num_rows = _number(connection, f"SELECT count(*) FROM {rows}")
            options = "(FORMAT parquet, COMPRESSION zstd)"
            num_kept = _number(
                connection, f"COPY ({self._kept_sql(rows)}) TO {_text(kept)} {options}"
            )
        return num_rows, num_kept

    def _exchange(self, files: Sequence[Path], kept: Path | None, now: datetime) -> None:
        folder = history_folder(self.place.folder, self.view)
        with swapping(self.place.folder):
            # Should this stop half way, rows are there twice, which no join minds, and the next time drops them.
            if kept:
                kept.replace(folder / f"part-kept-{now.strftime(_MICROSECONDS)}.parquet")
            for file in files:
                file.unlink()

    def _kept_sql(self, rows: str) -> str:
        """Return the statement that finds the rows that stay, each once, in the order of their keys."""
        kept, limit = RETENTION[self.view], f"TIMESTAMPTZ '{self.horizon.isoformat()}'"
        keys = ", ".join(kept.keys)
        found, order = f"SELECT DISTINCT * FROM {rows}", f"ORDER BY {keys}, {EVENT_TIME}, {CREATED}"
        if not kept.is_state:
            return f"SELECT * FROM ({found}) WHERE {EVENT_TIME} > {limit} {order}"
        # Known from `since` on. Of what was known by the horizon the newest stays, by either order that joins go by.
        old = f"PARTITION BY {keys}, since > {limit}"
        return (
            "SELECT * EXCLUDE (since)"
            f" FROM (SELECT *, greatest({EVENT_TIME}, {CREATED}) AS since FROM ({found}))"
            f" QUALIFY since > {limit}"
            f" OR row_number() OVER ({old} ORDER BY since DESC, {EVENT_TIME} DESC) = 1"
            f" OR row_number() OVER ({old} ORDER BY {EVENT_TIME} DESC, {CREATED} DESC) = 1 {order}"
        )


def _number(connection: duckdb.DuckDBPyConnection, statement: str) -> int:
    found = connection.execute(statement).fetchone()
    assert found
    return int(found[0])


def _text(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
