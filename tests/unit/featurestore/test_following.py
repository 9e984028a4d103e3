"""A stream that fails goes on by itself, counts that it failed, and stops when it is told."""

import logging
import threading
from collections.abc import Callable
from typing import Final

import pytest
from feast import FeatureStore

from featurestore.following import FAILED, follow
from featurestore.layout import Place, history_folder
from featurestore.records import RecordStep, RecordStream, letters_of_records
from featurestore.stream import FeatureStream, Step
from featurestore.view_rows import ViewRows
from featurestore.writer import set_up
from ledger.events import from_ground_truth, from_submission
from ledger.ledger import SqliteLedger
from moderation.clock import SimulatedClock
from moderation.errors import FeatureStoreUnavailable
from moderation.listing import GroundTruth, TruthSource
from tests.feature_events import START, upload

TRUTH: Final = GroundTruth(
    submission_id="u1",
    policy="p",
    violates=True,
    source=TruthSource.REVIEW,
    reviewed_at=START,
    known_at=START,
)


@pytest.fixture
def records(
    store: FeatureStore, place: Place, ledger: SqliteLedger, clock: SimulatedClock
) -> RecordStream:
    return RecordStream(ledger, ViewRows(store, place), letters_of_records(place), clock)


def test_a_failed_step_is_counted_told_and_made_good(
    stream: FeatureStream,
    records: RecordStream,
    ledger: SqliteLedger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    real: Callable[[], Step] = stream.step
    failures = iter([FeatureStoreUnavailable("gone"), FeatureStoreUnavailable("still gone")])

    def sometimes() -> Step:
        if (error := next(failures, None)) is not None:
            raise error
        return real()

    monkeypatch.setattr(stream, "step", sometimes)
    stop, told, done = threading.Event(), list[str](), list[Step]()

    def on_step(step: Step | RecordStep) -> None:
        if isinstance(step, Step):
            done.append(step)
            stop.set()

    def on_failure(error: Exception) -> None:
        told.append(str(error))

    before = FAILED.labels("FeatureStoreUnavailable")._value.get()
    follow(stream, records, stop, every_s=0.01, on_step=on_step, on_failure=on_failure)
    assert told == ["gone", "still gone"]
    assert FAILED.labels("FeatureStoreUnavailable")._value.get() == before + 2
    assert [step.events for step in done] == [1]


def test_records_that_cannot_be_written_hold_up_no_activity(
    stream: FeatureStream, records: RecordStream, ledger: SqliteLedger, place: Place
) -> None:
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    ledger.append([from_ground_truth(TRUTH, recorded_at=START)])
    folder = history_folder(place.folder, "ground_truth")
    folder.rename(place.folder / "aside")
    stop, told, counted = threading.Event(), list[str](), list[int]()

    def on_step(step: Step | RecordStep) -> None:
        if isinstance(step, Step):
            counted.append(step.events)
            if len(counted) == 3:
                (place.folder / "aside").rename(folder)
        elif step.truths:
            stop.set()

    before = FAILED.labels("FileNotFoundError")._value.get()
    follow(
        stream,
        records,
        stop,
        every_s=0.01,
        on_step=on_step,
        on_failure=lambda error: told.append(str(error)),
    )
    assert counted == [2, 0, 0]
    assert len(told) == 2
    assert "ground_truth" in told[0]
    assert FAILED.labels("FileNotFoundError")._value.get() == before + 2


def test_a_fault_of_feast_in_records_is_told_and_holds_up_no_activity(
    stream: FeatureStream,
    records: RecordStream,
    ledger: SqliteLedger,
    place: Place,
    store: FeatureStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As with the registry of a release that did not know a view yet, until it is set up again."""
    store.delete_feature_view("ground_truth")
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    ledger.append([from_ground_truth(TRUTH, recorded_at=START)])
    stop, told, counted, truths = threading.Event(), list[str](), list[int](), list[int]()

    def on_failure(error: Exception) -> None:
        told.append(type(error).__name__)
        if len(told) == 2:
            (place.folder / "declared.sha256").write_text("of a release before")
            set_up(place)

    def on_step(step: Step | RecordStep) -> None:
        if isinstance(step, Step):
            counted.append(step.events)
        else:
            truths.append(step.truths)
            stop.set()

    before = FAILED.labels("FeatureViewNotFoundException")._value.get()
    with caplog.at_level(logging.ERROR, "featurestore.following"):
        follow(stream, records, stop, every_s=0.01, on_step=on_step, on_failure=on_failure)
    assert (told, counted, truths) == (["FeatureViewNotFoundException"] * 2, [2, 0, 0], [1])
    assert FAILED.labels("FeatureViewNotFoundException")._value.get() == before + 2
    assert [one.exc_info is not None for one in caplog.records] == [True, True]
