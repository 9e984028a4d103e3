"""Following the ledger: steps of both streams, until somebody says stop; what fails is tried again."""

import logging
from collections.abc import Callable
from threading import Event
from typing import Final

from prometheus_client import Counter

from featurestore.records import RecordStep, RecordStream
from featurestore.stream import FeatureStream, Step
from moderation.errors import TemporaryError, TidegateError

_LOG = logging.getLogger(__name__)

FAILED: Final = Counter(
    "tidegate_feature_steps_failed_total", "Steps of a feature stream that failed.", ["error"]
)

EVERY_S: Final = 0.5
"""Pause between two steps: what a seller just did counts for its next upload after about as long."""

_Errors = tuple[type[Exception], ...]
_ACTIVITY_MAY_PASS: Final[_Errors] = (TemporaryError,)
_RECORDS_MAY_PASS: Final[_Errors] = (Exception,)  # Feast's own errors among them


def follow(
    stream: FeatureStream,
    records: RecordStream,
    stop: Event,
    *,
    every_s: float = EVERY_S,
    on_step: Callable[[Step | RecordStep], None] = lambda done: None,
    on_failure: Callable[[Exception], None] = lambda error: None,
) -> None:
    """Step until `stop` is set; what may pass is counted, told and tried again.

    Activity is what decisions wait for: whatever keeps records from being written, it goes on.
    """
    while not stop.is_set():
        for one, may_pass in ((stream, _ACTIVITY_MAY_PASS), (records, _RECORDS_MAY_PASS)):
            try:
                done = one.step()
            except may_pass as error:
                FAILED.labels(type(error).__name__).inc()
                is_ours = isinstance(error, TidegateError)
                _LOG.error(
                    "the stream is behind", extra={"reason": str(error)}, exc_info=not is_ours
                )
                on_failure(error)
            else:
                on_step(done)
        stop.wait(every_s)
