"""Where the feature store of a home lies and what its parts are called: what a reader needs, without loading Feast."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from moderation.errors import PermanentError
from moderation.settings import Settings

PROJECT: Final = "tidegate"

STREAM: Final = "stream_state"
"""View that says up to when a stream has come."""

ACTIVITY: Final = "activity"
"""The stream of what sellers do, as a key of `stream_state`."""

EVENT_TIME: Final = "event_timestamp"
CREATED: Final = "created_timestamp"

EMPTY_FILE: Final = "part-empty.parquet"
"""In every history: its columns and no rows."""

REDIS_PORT: Final = 6379


class FeaturesNotReady(PermanentError):
    """The feature store of this home was not set up, or by another release; run `tidegate features apply`."""


@dataclass(frozen=True)
class Place:
    """Where the features of a home are."""

    folder: Path
    """Absolute; registry, history, and the online store of a laptop."""

    redis_url: str | None = None
    """`redis://host:port/db`; None keeps online rows in SQLite."""

    @classmethod
    def of(cls, config: Settings) -> "Place":
        """Return the place that the settings name."""
        url = config.feature_online_url
        secret = url.get_secret_value() if url else None
        return cls((config.home / "features").absolute(), secret)

    @property
    def online_file(self) -> Path:
        """SQLite file of the online store."""
        return self.folder / "online.sqlite"

    @property
    def config_file(self) -> Path:
        """Feast's own configuration: `feast -f <it> ui`."""
        return self.folder / "feature_store.yaml"

    @property
    def stream_file(self) -> Path:
        """What the stream keeps of itself, SQLite."""
        return self.folder / "stream.sqlite"


def history_folder(folder: Path, view: str) -> Path:
    """Return where the Parquet files of one view lie."""
    return folder / "history" / view


def without_secrets(url: str) -> str:
    """Return a Redis URL as it may be shown."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or REDIS_PORT}{parts.path}"
