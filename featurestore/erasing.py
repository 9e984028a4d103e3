"""A seller taken out of the feature store: out of the history file by file, and out of the online rows.

What a row of a device or an address says of other sellers stays. Prices stay too: a median of five or more is nobody's.
"""

import shutil
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from featurestore.layout import EMPTY_FILE, EVENT_TIME, PROJECT, Place, history_folder
from featurestore.locks import swapping
from featurestore.wire import entity_key, entity_key_of, key_prefix
from ledger.erasures import Belongings
from moderation.activity_rows import PlaceActivity, RowKind, mark
from moderation.errors import FeatureStoreUnavailable

_BUSY_S: Final = 10.0
_AT_ONCE: Final = 500
_SCRATCH: Final = ".erase-"
_PLACES: Final = (RowKind.DEVICE, RowKind.ADDRESS)

_Versions = dict[tuple[str, datetime], bytes | None]
"""Key and event time -> the row without the seller; None where nothing is left to say."""

_Changed = Iterator[tuple[Path, pa.Table, int]]
"""Files of the history, what each is to hold, and how many rows were removed or changed for that."""


def keys_of(seller_id: str, belongings: Belongings) -> dict[str, Sequence[str]]:
    """Return by join key what is of a seller: the seller's own rows, those of submissions, and those of places."""
    return {
        RowKind.SELLER.join_key: (seller_id,),
        "listing_id": belongings.submissions,
        RowKind.DEVICE.join_key: belongings.devices,
        RowKind.ADDRESS.join_key: belongings.addresses,
    }


def erase_history(folder: Path, seller_id: str, belongings: Belongings) -> int:
    """Take a seller out of the history of every view, and return how many rows were removed or changed.

    Call it while being the one writer, and while `writing_rows`: what writers that were killed left half written goes
    too. All files are exchanged at one moment, for which readers are waited for; doing it again does what is left.

    Args:
        folder: of the feature store.
        seller_id: who goes.
        belongings: submissions, devices and addresses of the seller.

    Raises:
        ActivityRowError: if a row of a device or an address cannot be read.
    """
    _forget_partials(folder)
    exchanged, numbers = list[tuple[Path, Path]](), list[int]()
    with TemporaryDirectory(dir=folder, prefix=_SCRATCH) as scratch:
        for path, table, number in _changed(folder, seller_id, keys_of(seller_id, belongings)):
            numbers.append(number)
            exchanged.append((Path(scratch) / f"{len(exchanged)}.parquet", path))
            pq.write_table(table, exchanged[-1][0], compression="zstd")
        if exchanged:
            with swapping(folder):
                for written, path in exchanged:
                    written.replace(path)
    return sum(numbers)


def _forget_partials(folder: Path) -> None:
    """Remove what writers that were killed left half written; the empty file of a view holds no row of anybody."""
    for prefix in (_SCRATCH, ".prune-"):
        for scratch in folder.glob(f"{prefix}*"):
            shutil.rmtree(scratch)
    for partial in (folder / "history").glob("*/.part-*"):
        if not partial.name.startswith(f".{EMPTY_FILE}."):
            partial.unlink()


def _changed(folder: Path, seller_id: str, keys: Mapping[str, Sequence[str]]) -> _Changed:
    """Yield the files in which something of the seller is; no file comes twice."""
    for kind in _PLACES:
        files = sorted((folder / "history" / kind.view).glob("*.parquet"))
        if keys[kind.join_key]:
            yield from _without_mark(files, kind, keys[kind.join_key], seller_id)
    whose = {name: pa.array(keys[name], pa.string()) for name in ("seller_id", "listing_id")}
    for path in sorted((folder / "history").glob("*/*.parquet")):
        yield from _without_rows(path, whose)


def erase_online(place: Place, seller_id: str, belongings: Belongings) -> int:
    """Remove the online rows of a seller, and those of the places that it used; return how many there were.

    SQLite's file is erased beside a Redis too: it stays where it is when the online store is switched. Call it before
    `erase_history`: the history says what there is. Rows of places that others use too have to be written again
    afterwards.

    Raises:
        FeatureStoreUnavailable: if an online store cannot be written now.
    """
    keys = [
        entity_key(key_prefix(name), text)
        for name, texts in keys_of(seller_id, belongings).items()
        for text in texts
    ]
    keys += [entity_key_of(one) for one in _truths(place.folder, belongings.submissions)]
    try:
        number = _erase_sqlite(place.online_file, keys) if place.online_file.is_file() else 0
        return number + (_erase_redis(place.redis_url, keys) if place.redis_url else 0)
    except (sqlite3.Error, redis.RedisError, OSError) as error:
        raise FeatureStoreUnavailable(
            f"the seller cannot be erased online: {type(error).__name__}: {error}"
        ) from error


def _truths(folder: Path, submissions: Sequence[str]) -> list[dict[str, str]]:
    """Return submission and policy of every truth about some submissions that the history holds."""
    columns, about = ["listing_id", "policy_id"], pc.field("listing_id").isin(list(submissions))
    found: list[dict[str, str]] = []
    for path in sorted(history_folder(folder, "ground_truth").glob("*.parquet")):
        found += pq.read_table(path, columns=columns, filters=about).to_pylist()
    return found


def _without_rows(path: Path, whose: Mapping[str, pa.Array]) -> _Changed:
    """Yield a file without the rows that name the seller or one of its submissions, where there are any."""
    columns = [name for name in whose if name in pq.read_schema(path).names]
    if not columns:
        return
    named = pq.read_table(path, columns=columns)
    goes = pa.array([False] * named.num_rows, pa.bool_())
    for name in columns:
        goes = pc.or_(goes, pc.is_in(named[name].combine_chunks(), value_set=whose[name]))
    number = int(pc.sum(goes).as_py() or 0)
    if number:
        yield path, pq.read_table(path).filter(pc.invert(goes)), number


def _without_mark(
    files: Sequence[Path], kind: RowKind, keys: Collection[str], seller_id: str
) -> _Changed:
    """Take the seller's mark out of rows of places; a version that then says what the one before said goes."""
    holding: list[Path] = []
    versions: defaultdict[str, dict[datetime, bytes]] = defaultdict(dict)
    for path in files:
        found = pq.read_table(path, filters=pc.field(kind.join_key).isin(list(keys))).to_pylist()
        holding += [path] if found else []
        for one in found:
            versions[one[kind.join_key]][one[EVENT_TIME]] = one[kind.column]
    changed: _Versions = {}
    for key, by_time in versions.items():
        for at, row in _without(by_time, mark(seller_id)):
            changed[key, at] = row
    for path in holding:
        yield from _with_places(path, kind, changed)


def _without(
    by_time: Mapping[datetime, bytes], erased: int
) -> Iterator[tuple[datetime, bytes | None]]:
    """Yield the versions of one place that change, None for those that go."""
    before: bytes | None = None
    for at, data in sorted(by_time.items()):
        row = PlaceActivity.decode(data)
        if row.sellers.pop(erased, None) is None:
            before = data
            continue
        left = row.encode() if row.sellers else None
        yield at, None if left == before else left
        before = left


def _with_places(path: Path, kind: RowKind, changed: _Versions) -> _Changed:
    table = pq.read_table(path)
    rows, number = list[dict[str, Any]](), 0
    for one in table.to_pylist():
        version = one[kind.join_key], one[EVENT_TIME]
        number += version in changed
        left = changed.get(version, one[kind.column])
        if left is not None:
            rows.append(one | {kind.column: left})
    if number:
        yield path, pa.Table.from_pylist(rows, schema=table.schema), number


def _erase_sqlite(path: Path, keys: Sequence[bytes]) -> int:
    """Remove rows, and leave nothing of them in the file or its journal."""
    with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name.startswith(f"{PROJECT}_")
        ]
        before = connection.total_changes
        connection.execute("BEGIN IMMEDIATE")
        for table in tables:
            connection.executemany(
                f'DELETE FROM "{table}" WHERE entity_key = ?', [(key,) for key in keys]
            )
        connection.execute("COMMIT")
        number = connection.total_changes - before
        connection.execute("VACUUM")
        (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise sqlite3.OperationalError("a reader holds on to the journal")
    return number


def _erase_redis(url: str, keys: Sequence[bytes]) -> int:
    iterator, number = iter(keys), 0
    with redis.Redis.from_url(url, socket_timeout=_BUSY_S) as client:
        while some := list(islice(iterator, _AT_ONCE)):
            number += int(client.delete(*(key + PROJECT.encode() for key in some)))
    return number
