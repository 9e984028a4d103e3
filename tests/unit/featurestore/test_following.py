"""A stream that fails goes on by itself, counts that it failed, and stops when it is told."""

import threading
from collections.abc import Callable

import pytest

from featurestore.following import FAILED, follow
from featurestore.stream import FeatureStream, Step
from ledger.events import from_submission
from ledger.ledger import SqliteLedger
from moderation.errors import FeatureStoreUnavailable, TemporaryError
from tests.feature_events import START, upload


def test_a_failed_step_is_counted_told_and_made_good(
    stream: FeatureStream, ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
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

    def on_step(step: Step) -> None:
        done.append(step)
        stop.set()

    def on_failure(error: TemporaryError) -> None:
        told.append(str(error))

    before = FAILED.labels("FeatureStoreUnavailable")._value.get()
    follow(stream, stop, every_s=0.01, on_step=on_step, on_failure=on_failure)
    assert told == ["gone", "still gone"]
    assert FAILED.labels("FeatureStoreUnavailable")._value.get() == before + 2
    assert [step.events for step in done] == [1]
