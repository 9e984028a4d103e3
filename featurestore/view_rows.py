"""Rows of any declared view: into its history, as files that grow, and to the online store, where the newest wins."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.data_source import PushMode

from featurestore.history import history_schema, write_whole
from featurestore.layout import CREATED, EVENT_TIME, STREAM, Place, history_folder
from featurestore.sinks import answering
from moderation.activity_rows import to_us

Row = Mapping[str, Any]
"""Every column of a view by name: keys, features, `event_timestamp` and `created_timestamp`; None where unknown."""

_PUSHED: Final = 2_000


class ViewRows:
    """Writes rows of the views of one feature store, and reads its newest."""

    def __init__(self, store: FeatureStore, place: Place) -> None:
        self._store, self._place = store, place
        self._views: dict[str, FeatureView] = {}

    def view(self, name: str) -> FeatureView:
        """Return a view as it was put into force."""
        if name not in self._views:
            self._views[name] = self._store.get_feature_view(name)
        return self._views[name]

    def append(self, view: str, name: str, rows: Sequence[Row]) -> None:
        """Add rows to the history in one file called `name`; a file of that name is replaced.

        So a batch that was cut off and is written again is there once.
        """
        if rows:
            path = history_folder(self._place.folder, view) / f"part-{name}.parquet"
            write_whole(self.table(view, rows), path)

    def push(self, view: str, rows: Sequence[Row]) -> None:
        """Write rows to the online store; older ones than it holds change nothing.

        Raises:
            FeatureStoreUnavailable: if it cannot be written; then write the rows again.
        """
        for begin in range(0, len(rows), _PUSHED):
            frame = self.table(view, rows[begin : begin + _PUSHED]).to_pandas()
            with answering(view):
                self._store.push(f"{view}_push", frame, to=PushMode.ONLINE)

    def newest(
        self, view: str, keys: Sequence[Mapping[str, str]], names: Iterable[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the online row of each key, its keys among it; None in every feature of one that is not there.

        Args:
            view: name of a view.
            keys: join key -> value, of each row.
            names: features that are wanted; empty means all.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be read.
        """
        wanted = list(names) or [one.name for one in self.view(view).features]
        with answering(view):
            found = self._store.get_online_features(
                features=[f"{view}:{name}" for name in wanted],
                entity_rows=[dict(key) for key in keys],
            ).to_dict()
        return [
            {name: column[place] for name, column in found.items()} for place in range(len(keys))
        ]

    def table(self, view: str, rows: Sequence[Row]) -> pa.Table:
        """Return rows with the columns and types of their view."""
        return pa.Table.from_pylist(
            [dict(row) for row in rows], schema=history_schema(self.view(view))
        )

    def beat(self, stream: str, through: datetime, sequence: int) -> None:
        """Say up to when a stream has come."""
        at = through.astimezone(UTC)
        row = {"stream_id": stream, "through_us": to_us(at), "sequence": sequence}
        self.push(STREAM, [{**row, EVENT_TIME: at, CREATED: at}])

    def sequence(self, stream: str) -> int:
        """Return the newest sequence that a stream has put online, 0 where there is none."""
        [found] = self.newest(STREAM, [{"stream_id": stream}], ["sequence"])
        return int(found["sequence"] or 0)
