"""Feast's SQLite store with the rule that Redis has: an older event never overwrites a newer one.

Feast's own keeps whole seconds, by the clock of the machine's time zone, and lets any event overwrite any other.
Feast finds it by its class path in `feature_store.yaml`, so every writer keeps the rule: stream, push and materialise.
"""

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from moderation.activity_rows import from_us, to_us

_NAME: Final = "featurestore.sqlite_store.NewestSqliteOnlineStore"

_INSTANT: Final = "event_us"
"""Column of ours: what is newer within a second is newer."""

Read = tuple[datetime | None, dict[str, Value] | None]
Written = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class NewestSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """The settings of Feast's own SQLite store."""

    type: Literal["featurestore.sqlite_store.NewestSqliteOnlineStore"] = _NAME  # type: ignore[assignment]


class NewestSqliteOnlineStore(SqliteOnlineStore):
    """SQLite online store in which the newest event wins; readers do not wait for the writer."""

    @staticmethod
    def _get_db_path(config: RepoConfig) -> str:
        return str(Path(config.online_store.path).absolute())

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        is_new = self._conn is None
        connection: sqlite3.Connection = super()._get_conn(config)
        if is_new:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def update(self, config: RepoConfig, *args: Any, **kwargs: Any) -> None:
        """Make the tables, each with the instant of its rows in microseconds."""
        super().update(config, *args, **kwargs)
        connection = self._get_conn(config)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            columns = {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}
            if "event_ts" in columns and _INSTANT not in columns:
                connection.execute(f'ALTER TABLE "{table}" ADD COLUMN {_INSTANT} INTEGER')
        connection.commit()

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows, each only where it is newer than what is there; equal instants change nothing."""
        rows = []
        for key, values, event_time, created in data:
            key_bytes, at = _key_bytes(config, key), _aware(event_time)
            times = at, _aware(created) if created else None, to_us(at)
            rows += [
                (key_bytes, feature, value.SerializeToString(), *times)
                for feature, value in values.items()
            ]
        connection = self._get_conn(config)
        with connection:
            connection.executemany(_upsert(_table(config, table)), rows)
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Read]:
        """Return event time and values of each key; (None, None) where there is no row."""
        keys = [_key_bytes(config, key) for key in entity_keys]
        marks = ", ".join("?" * len(keys))
        found: dict[bytes, tuple[datetime, dict[str, Value]]] = {}
        rows = self._get_conn(config).execute(
            f'SELECT entity_key, feature_name, value, {_INSTANT} FROM "{_table(config, table)}"'
            f" WHERE entity_key IN ({marks})",
            keys,
        )
        for key, feature, value, at_us in rows:
            values = found.setdefault(key, (from_us(at_us), {}))[1]
            values[feature] = Value.FromString(value)
        return [found.get(key, (None, None)) for key in keys]


def _table(config: RepoConfig, view: FeatureView) -> str:
    versioned = config.registry.enable_online_feature_view_versioning
    name: str = compute_table_id(config.project, view, versioned)
    return name


def _key_bytes(config: RepoConfig, key: EntityKey) -> bytes:
    return serialize_entity_key(
        key, entity_key_serialization_version=config.entity_key_serialization_version
    )


def _upsert(table: str) -> str:
    columns = ("value", "event_ts", "created_ts", _INSTANT)
    assigned = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return (
        f'INSERT INTO "{table}" (entity_key, feature_name, {", ".join(columns)})'
        f" VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (entity_key, feature_name) DO UPDATE SET {assigned}"
        f" WHERE excluded.{_INSTANT} > {_INSTANT}"
    )


def _aware(instant: datetime) -> datetime:
    """Return an instant in UTC; Feast hands some over without saying so."""
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
