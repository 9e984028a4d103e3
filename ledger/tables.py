"""Foreign tables as a stream of rows: a Parquet file, a CSV file, or a folder that holds one."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from moderation.errors import PermanentError

EXTRA: Final = "\x00extra"
"""Key under which a CSV row keeps the cells that it has too many of."""

_BATCH_ROWS: Final = 64
_MAX_CELL_CHARS: Final = 2**24
_KINDS: Final = (".parquet", ".csv")


class TableError(PermanentError):
    """There is no table to read where one was expected; the message says what was found."""


@dataclass(frozen=True)
class Table:
    """One table on the disk; rows are read in batches, so that memory does not grow with it."""

    path: Path
    columns: tuple[str, ...]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the number of each row, from 1, and its cells in `columns`.

        Raises:
            TableError: if the file breaks off or cannot be decoded on the way.
        """
        read = _parquet_rows if self.path.suffix == ".parquet" else _csv_rows
        try:
            yield from enumerate(read(self.path, columns), 1)
        except (pa.ArrowException, OSError, csv.Error) as error:
            raise TableError(f"{self.path.name}: cannot be read to its end: {error}") from error


def open_table(source: Path, name: str | None = None) -> Table:
    """Return the table at `source`: a file, or the one in a folder.

    Args:
        source: a Parquet or CSV file, or a folder.
        name: which file of the folder, where it holds several.

    Raises:
        TableError: if there is none, several, or one that cannot be read.
    """
    path = _locate(source, name)
    try:
        columns = _parquet_columns(path) if path.suffix == ".parquet" else _csv_columns(path)
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise TableError(f"{path}: is not a readable {path.suffix[1:]} table: {error}") from error
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice or not columns:
        raise TableError(f"{path}: needs named columns, each once; twice there: {twice}")
    return Table(path, columns)


def _locate(source: Path, name: str | None) -> Path:
    if source.is_file():
        if source.suffix not in _KINDS:
            raise TableError(f"{source}: a table ends in {' or '.join(_KINDS)}")
        return source
    if not source.is_dir():
        raise TableError(f"{source}: there is no such file or folder")
    for kind in _KINDS:
        found = sorted(source.glob(f"*{kind}"))
        if name is not None:
            found = [path for path in found if path.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise TableError(f"{source}: holds several tables ({names}); name one of them")
    wanted = name or "*.parquet or *.csv"
    raise TableError(f"{source}: holds no {wanted}")


def _parquet_columns(path: Path) -> tuple[str, ...]:
    return tuple(pq.read_schema(path).names)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(columns)):
            yield from batch.to_pylist()


def _csv_columns(path: Path) -> tuple[str, ...]:
    with _open_csv(path) as file:
        return tuple(next(csv.reader(file), ()))


def _csv_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    with _open_csv(path) as file:
        for row in csv.DictReader(file, restkey=EXTRA):
            cells: dict[str, Any] = {column: row[column] or None for column in columns}
            if EXTRA in row:
                cells[EXTRA] = row[EXTRA]
            yield cells


def _open_csv(path: Path) -> Any:
    csv.field_size_limit(_MAX_CELL_CHARS)
    # A byte that is no UTF-8 becomes a lone surrogate, which the listing's own check refuses by row and field.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
