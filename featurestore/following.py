"""Following the ledger: steps of the stream one after another until somebody says stop; a failed one is tried again."""

import logging
from collections.abc import Callable
from threading import Event
from typing import Final

from prometheus_client import Counter

from featurestore.stream import FeatureStream, Step
from moderation.errors import TemporaryError

_LOG = logging.getLogger(__name__)

FAILED: Final = Counter(
    "tidegate_feature_steps_failed_total", "Steps of the feature stream that failed.", ["error"]
)

EVERY_S: Final = 0.5
"""Pause between two steps: what a seller just did counts for its next upload after about as long."""


def follow(
    stream: FeatureStream,
    stop: Event,
    *,
    every_s: float = EVERY_S,
    on_step: Callable[[Step], None] = lambda done: None,
    on_failure: Callable[[TemporaryError], None] = lambda error: None,
) -> None:
    """Step until `stop` is set; what may pass is counted, told and tried again."""
    while not stop.is_set():
        try:
            done = stream.step()
        except TemporaryError as error:
            FAILED.labels(type(error).__name__).inc()
            _LOG.error("the stream is behind", extra={"reason": str(error)})
            on_failure(error)
        else:
            on_step(done)
        stop.wait(every_s)
