"""An erasure beside others: a store that was switched, a batch of profiles, readers, and what killed writers left."""

import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from featurestore.erasing import erase_history
from featurestore.layout import Place, history_folder
from featurestore.letters import DeadLetters
from featurestore.locks import reading
from featurestore.profile import PROFILE, write_profiles
from featurestore.repository import apply
from featurestore.sinks import FeastSink
from featurestore.stream import FeatureStream
from featurestore.view_rows import ViewRows
from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from tests.feature_events import START, upload
from tidegate.erasing import belonging

GONE = "the-erased-seller"
NOON = START + timedelta(hours=12)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def filled(stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock) -> FeatureStream:
    """Give a stream that has counted one upload of the seller and one of another, with the same device."""
    uploads = [
        upload(f"u-{seller}", START + number * MINUTE, seller_id=seller, device_fingerprint="d1")
        for number, seller in enumerate((GONE, "s2"), 1)
    ]
    clock.move_to(NOON)
    ledger.append([from_submission(one, recorded_at=one.submitted_at) for one in uploads])
    stream.step()
    return stream


def _naming(folder: Path) -> list[str]:
    """Return the files that name the seller; pages of Parquet are read, as they are compressed."""
    found = []
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        data = path.read_bytes()
        if data[:4] == b"PAR1":
            data += repr(pq.read_table(path).to_pylist()).encode()
        found += [path.name] if GONE.encode() in data else []
    return found


def test_an_erasure_reaches_the_file_of_before_redis(
    filled: FeatureStream,
    place: Place,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    own_redis: tuple[str, object],
) -> None:
    switched = Place(place.folder, own_redis[0])
    sink, letters = FeastSink(apply(switched), switched), DeadLetters(place.stream_file)
    stream = FeatureStream(ledger, sink, letters, clock)
    stream.step()
    assert any(name.startswith("online.sqlite") for name in _naming(place.folder))
    ledger.erase(GONE, belonging, clock.now())
    assert stream.step().erased == 1
    assert _naming(place.folder) == []


def test_a_batch_of_profiles_beside_an_erasure_brings_nobody_back(
    filled: FeatureStream,
    place: Place,
    store: FeatureStore,
    ledger: SqliteLedger,
    clock: SimulatedClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The erasure begins between what the batch read and what it writes."""
    append, erasing = ViewRows.append, threading.Thread(target=filled.step)

    def beside(self: ViewRows, *arguments: Any) -> None:
        ledger.erase(GONE, belonging, clock.now())
        erasing.start()
        erasing.join(0.5)
        append(self, *arguments)

    monkeypatch.setattr(ViewRows, "append", beside)
    assert write_profiles(store, place, NOON, NOON).sellers == 2
    erasing.join(60)
    assert ledger.erasures.in_features() == []
    assert _naming(place.folder) == []
    keys = [{"seller_id": GONE}, {"seller_id": "s2"}]
    known = [row["submissions_30d"] for row in ViewRows(store, place).newest(PROFILE, keys)]
    assert known == [None, 1]


def _killed(write: Callable[[], object]) -> None:
    """Let a child be killed at the moment at which it would put a file into its place."""
    child = os.fork()
    if child == 0:
        Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
        write()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_what_a_killed_writer_left_goes_too(
    filled: FeatureStream, place: Place, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    one = upload("later", NOON, seller_id=GONE)
    ledger.append([from_submission(one, recorded_at=NOON)])
    _killed(filled.step)
    folder = history_folder(place.folder, "seller_activity")
    [partial] = folder.glob(".part-*")
    scratch = place.folder / ".prune-killed"
    scratch.mkdir()
    (scratch / "kept.parquet").write_bytes(partial.read_bytes())
    applying = (
        folder / ".part-empty.parquet.1"
    )  # of `tidegate features apply`, which no lock keeps out
    applying.touch()
    assert partial.name in _naming(place.folder)
    filled.step()
    ledger.erase(GONE, belonging, clock.now())
    assert filled.step().erased == 1
    assert _naming(place.folder) == []
    assert not scratch.exists()
    assert applying.exists()
    assert not list(place.folder.glob(".erase-*"))


def test_files_are_exchanged_when_nobody_reads(
    filled: FeatureStream, place: Place, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    erasure = ledger.erase(GONE, belonging, clock.now())
    files = sorted((place.folder / "history").glob("*/*.parquet"))
    before = [path.stat().st_ino for path in files]
    arguments = place.folder, GONE, erasure.belongings
    erasing = threading.Thread(target=erase_history, args=arguments)
    with reading(place.folder):
        erasing.start()
        erasing.join(0.5)
        assert erasing.is_alive(), "a reader is waited for"
        assert [path.stat().st_ino for path in files] == before
    erasing.join(60)
    assert [path.stat().st_ino for path in files] != before
    assert not any(GONE in repr(pq.read_table(path).to_pylist()) for path in files)
