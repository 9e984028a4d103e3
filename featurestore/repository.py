"""Opening the feature store of a home: its configuration, and putting this release's definitions into force."""

from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import yaml
from feast import FeatureStore, FeatureView
from feast.errors import FeastError

from featurestore.definitions import declare, declared_digest
from featurestore.history import ensure_history
from featurestore.layout import PROJECT, REDIS_PORT, FeaturesNotReady, Place, history_folder
from featurestore.owner import check_owner
from featurestore.quiet import quiet_feast

_SQLITE: Final = "featurestore.sqlite_store.NewestSqliteOnlineStore"
# The layout of entity keys; a store keeps the one it was begun with.
_KEY_VERSION: Final = 3


def feast_config(place: Place) -> dict[str, Any]:
    """Return the content of `feature_store.yaml`."""
    online: dict[str, Any] = {"type": _SQLITE, "path": str(place.online_file)}
    if place.redis_url:
        online = {"type": "redis", "connection_string": _connection_string(place.redis_url)}
    return {
        "project": PROJECT,
        "provider": "local",
        "registry": {"path": str(place.folder / "registry.db"), "cache_ttl_seconds": 0},
        "online_store": online,
        "offline_store": {"type": "duckdb"},
        "entity_key_serialization_version": _KEY_VERSION,
        "auth": {"type": "no_auth"},
    }


def apply(place: Place) -> FeatureStore:
    """Put the definitions of this release into force and return the store; what is stored stays.

    Raises:
        FeaturesNotReady: if the online store cannot be reached, or another home writes it.
    """
    config = feast_config(place)
    place.folder.mkdir(parents=True, exist_ok=True)
    check_owner(place)
    place.config_file.touch(mode=0o600)  # it may hold the password of a Redis
    place.config_file.write_text(yaml.safe_dump(config, sort_keys=False))
    store = FeatureStore(fs_yaml_file=place.config_file)
    objects = declare(place.folder)
    for view in objects:
        if isinstance(view, FeatureView):
            ensure_history(history_folder(place.folder, view.name), view)
    try:
        with quiet_feast():
            store.apply(objects)
    except (FeastError, OSError) as error:
        raise FeaturesNotReady(f"the feature store cannot be set up: {error}") from error
    _declared_file(place).write_text(declared_digest())
    return store


def is_declared(place: Place) -> bool:
    """Return whether the definitions of this release are the ones in force."""
    path = _declared_file(place)
    return path.is_file() and path.read_text() == declared_digest()


def open_store(place: Place) -> FeatureStore:
    """Return the store of a home that was set up.

    Raises:
        FeaturesNotReady: if it was not, or for another online store, or another home writes the online store.
    """
    if not place.config_file.is_file():
        raise FeaturesNotReady(f"{place.folder} holds no feature store: tidegate features apply")
    if yaml.safe_load(place.config_file.read_text()) != feast_config(place):
        raise FeaturesNotReady(
            f"{place.config_file} was written for another online store: tidegate features apply"
        )
    check_owner(place)
    return FeatureStore(fs_yaml_file=place.config_file)


def _declared_file(place: Place) -> Path:
    return place.folder / "declared.sha256"


def _connection_string(url: str) -> str:
    """Return a Redis URL as Feast wants it: `host:port,db=n,password=...`."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise FeaturesNotReady(
            "TIDEGATE__FEATURE_ONLINE_URL must be redis://host:port/db, or rediss:// with TLS"
        )
    options = [f"{parts.hostname}:{parts.port or REDIS_PORT}", f"db={parts.path.strip('/') or 0}"]
    options += [f"username={unquote(parts.username)}"] if parts.username else []
    options += [f"password={unquote(parts.password)}"] if parts.password else []
    options += ["ssl=True"] if parts.scheme == "rediss" else []
    return ",".join(options)
