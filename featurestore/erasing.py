"""A seller taken out of the feature store: out of the history file by file, and out of the online rows.

What a row of a device or an address says of other sellers stays. Prices stay too: a median of five or more is nobody's.
"""

import os
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from featurestore.layout import EVENT_TIME, PROJECT, Place, history_folder
from featurestore.wire import entity_key, entity_key_of, key_prefix
from ledger.erasures import Belongings
from moderation.activity_rows import PlaceActivity, RowKind, mark
from moderation.errors import FeatureStoreUnavailable

_BUSY_S: Final = 10.0
_AT_ONCE: Final = 500
_PLACES: Final = (RowKind.DEVICE, RowKind.ADDRESS)

_Versions = dict[tuple[str, datetime], bytes | None]
"""Key and event time -> the row without the seller; None where nothing is left to say."""


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

    Each file is replaced whole, so that a training that reads meanwhile sees the old one or the new one; doing it again
    does what is left.

    Args:
        folder: of the feature store.
        seller_id: who goes.
        belongings: submissions, devices and addresses of the seller.

    Raises:
        ActivityRowError: if a row of a device or an address cannot be read.
    """
    keys = keys_of(seller_id, belongings)
    number = 0
    for kind in _PLACES:
        files = sorted((folder / "history" / kind.view).glob("*.parquet"))
        if keys[kind.join_key]:
            number += _erase_places(files, kind, keys[kind.join_key], seller_id)
    whose = {name: pa.array(keys[name], pa.string()) for name in ("seller_id", "listing_id")}
    for path in sorted((folder / "history").glob("*/*.parquet")):
        number += _erase_rows(path, whose)
    return number


def erase_online(place: Place, seller_id: str, belongings: Belongings) -> int:
    """Remove the online rows of a seller, and those of the places that it used; return how many there were.

    Call it before `erase_history`: the history says what there is. Rows of places that others use too have to be
    written again afterwards.

    Raises:
        FeatureStoreUnavailable: if the online store cannot be written now.
    """
    keys = [
        entity_key(key_prefix(name), text)
        for name, texts in keys_of(seller_id, belongings).items()
        for text in texts
    ]
    keys += [entity_key_of(one) for one in _truths(place.folder, belongings.submissions)]
    try:
        if place.redis_url:
            return _erase_redis(place.redis_url, keys)
        return _erase_sqlite(place.online_file, keys) if place.online_file.is_file() else 0
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


def _erase_rows(path: Path, whose: Mapping[str, pa.Array]) -> int:
    """Drop the rows of a file that name the seller or one of its submissions."""
    columns = [name for name in whose if name in pq.read_schema(path).names]
    if not columns:
        return 0
    named = pq.read_table(path, columns=columns)
    goes = pa.array([False] * named.num_rows, pa.bool_())
    for name in columns:
        goes = pc.or_(goes, pc.is_in(named[name].combine_chunks(), value_set=whose[name]))
    number = int(pc.sum(goes).as_py() or 0)
    if number:
        _replace(path, pq.read_table(path).filter(pc.invert(goes)))
    return number


def _erase_places(
    files: Sequence[Path], kind: RowKind, keys: Collection[str], seller_id: str
) -> int:
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
        _rewrite_places(path, kind, changed)
    return len(changed)


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


def _rewrite_places(path: Path, kind: RowKind, changed: _Versions) -> None:
    table = pq.read_table(path)
    rows: list[dict[str, Any]] = []
    for one in table.to_pylist():
        left = changed.get((one[kind.join_key], one[EVENT_TIME]), one[kind.column])
        if left is not None:
            rows.append(one | {kind.column: left})
    _replace(path, pa.Table.from_pylist(rows, schema=table.schema))


def _replace(path: Path, table: pa.Table) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


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
