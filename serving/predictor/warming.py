"""Runs batches of every size before the first caller comes: nothing is set up late, and their times are known."""

import numpy as np

from moderation.clock import Clock, SystemClock
from moderation.features import FEATURE_NAMES
from moderation.scoring import ScoringItem
from serving.predictor.latency import LatencyModel
from serving.predictor.terms import Scoring

_TEXT = "a listing like any other, to warm up with " * 4


def batch_sizes(max_batch: int) -> list[int]:
    """Return the sizes that are run: doubled up to the largest."""
    sizes = [1]
    while sizes[-1] < max_batch:
        sizes.append(min(2 * sizes[-1], max_batch))
    return sizes


def warm_up(
    scoring: Scoring,
    image: bytes,
    max_batch: int,
    latency: LatencyModel,
    clock: Clock | None = None,
) -> None:
    """Score batches of one listing with every modality, each size once; the very first run teaches nothing.

    Args:
        scoring: the loaded bundle.
        image: an encoded image of ordinary size.
        max_batch: the largest batch.
        latency: learns from each.
        clock: its monotonic seconds.
    """
    clock = clock or SystemClock()
    num_features = len(FEATURE_NAMES)
    zeros = np.zeros(num_features, np.float32)
    item = ScoringItem("warm up", _TEXT, (image,), zeros, np.zeros(num_features, np.int8))
    prepared = scoring.prepare(item)
    scoring.score_prepared([prepared], with_embeddings=True)
    for size in batch_sizes(max_batch):
        begin_s = clock.monotonic()
        scoring.score_prepared([prepared] * size)
        latency.learn(2 * size, clock.monotonic() - begin_s)
