"""Where the stream writes rows: online through Feast, and into the history."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pandas as pd
import redis
from feast import FeatureStore
from feast.data_source import PushMode

from featurestore.erasing import erase_history, erase_online
from featurestore.history import ActivityRow, append_activity, frame
from featurestore.layout import (
    ACTIVITY,
    CREATED,
    EMPTY_FILE,
    EVENT_TIME,
    STREAM,
    Place,
    history_folder,
)
from featurestore.letters import RECORDS_PREFIX, DeadLetters
from featurestore.locks import swapping, writing_rows
from featurestore.owner import HOME, check_id, owner_of
from ledger.erasures import Belongings
from moderation.activity_rows import RowKind, to_us
from moderation.errors import FeatureStoreUnavailable


class FeastSink:
    """Writes to one feature store."""

    def __init__(self, store: FeatureStore, place: Place) -> None:
        self._store, self._place = store, place
        self._is_marked = False

    def write(self, name: str, versions: Sequence[ActivityRow], *, is_online: bool = True) -> None:
        """Keep versions of rows: all of them in the history, the newest of each row online.

        Args:
            name: of the batch; a batch of the same name takes the place of the one before.
            versions: in the order in which they came to be.
            is_online: whether the online store gets them too.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be written; then write the batch again.
        """
        append_activity(self._place.folder, name, versions)
        if is_online:
            self.write_online(list({(row.kind, row.key): row for row in versions}.values()))

    def write_online(self, rows: Sequence[ActivityRow]) -> None:
        """Write rows to the online store alone; older ones than it holds change nothing."""
        by_kind: dict[RowKind, list[ActivityRow]] = {}
        for row in rows:
            by_kind.setdefault(row.kind, []).append(row)
        for kind, found in by_kind.items():
            self._push(kind.view, frame(found))

    def clear(self) -> None:
        """Forget the history of activity, which is written anew; readers that came before are waited for."""
        with swapping(self._place.folder):
            for kind in RowKind:
                for file in history_folder(self._place.folder, kind.view).glob("part-*.parquet"):
                    if file.name != EMPTY_FILE:
                        file.unlink()

    def erase(self, seller_id: str, belongings: Belongings) -> dict[str, int]:
        """Take a seller out of the history and the online rows; return what was removed, by name.

        Rows of places that others used too have to be written online again.

        Raises:
            FeatureStoreUnavailable: if the online store cannot be written; then do it again.
        """
        folder = self._place.folder
        letters = DeadLetters(self._place.stream_file, prefix=RECORDS_PREFIX)
        with writing_rows(folder):  # profiles that are being written are waited for, and go too
            # The history says under which policies something was established: it goes last.
            return {
                "feature_online_rows": erase_online(self._place, seller_id, belongings),
                "refused_records": letters.forget(belongings.sequences),
                "feature_history_rows": erase_history(folder, seller_id, belongings),
            }

    def beat(self, through: datetime, sequence: int) -> None:
        """Say up to when the rows are complete; readers take the rows for stale when this is old.

        An online store that nobody writes becomes this home's.
        """
        rows = [(ACTIVITY, to_us(through), sequence)]
        if not self._is_marked:
            rows.append((HOME, owner_of(self._place), owner_of(self._place)))
        found = pd.DataFrame(rows, columns=["stream_id", "through_us", "sequence"])
        at = pd.to_datetime([through.astimezone(UTC)] * len(rows)).astype("datetime64[us, UTC]")
        self._push(STREAM, found.assign(**{EVENT_TIME: at, CREATED: at}))

    def sequence(self) -> int:
        """Return the newest sequence that is in the online rows, 0 where there are none.

        A store without the id of a home was emptied, whatever a beat told it since.

        Raises:
            FeaturesNotReady: if another home writes the online store.
            FeatureStoreUnavailable: if it cannot be read.
        """
        with answering(STREAM):
            found = self._store.get_online_features(
                features=[f"{STREAM}:sequence"],
                entity_rows=[{"stream_id": ACTIVITY}, {"stream_id": HOME}],
            ).to_dict()
        sequence, owner = found["sequence"]
        self._is_marked = owner is not None
        if owner is None:
            return 0
        check_id(self._place, int(owner))
        return int(sequence or 0)

    def _push(self, view: str, rows: pd.DataFrame) -> None:
        with answering(view):
            self._store.push(f"{view}_push", rows, to=PushMode.ONLINE)


@contextmanager
def answering(view: str) -> Iterator[None]:
    """Say of whatever an online store raises that it may pass."""
    try:
        yield
    except (sqlite3.Error, redis.RedisError, OSError, RuntimeError) as error:
        raise FeatureStoreUnavailable(
            f"{view} cannot be reached: {type(error).__name__}"
        ) from error
