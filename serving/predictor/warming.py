"""Runs batches of every size before the first caller comes: nothing is set up late, and their times are known."""

from moderation.clock import Clock, SystemClock
from moderation.scores import PreparedItem
from serving.predictor.latency import LatencyModel
from serving.predictor.terms import Scoring


def batch_sizes(max_batch: int) -> list[int]:
    """Return the sizes that are run: doubled up to the largest."""
    sizes = [1]
    while sizes[-1] < max_batch:
        sizes.append(min(2 * sizes[-1], max_batch))
    return sizes


def warm_up(
    scoring: Scoring,
    prepared: PreparedItem,
    max_batch: int,
    latency: LatencyModel,
    clock: Clock | None = None,
) -> None:
    """Score batches of one listing with every modality, each size once; the very first run teaches nothing.

    Args:
        scoring: the loaded bundle.
        prepared: with a text and an image.
        max_batch: the largest batch.
        latency: learns from each.
        clock: its monotonic seconds.
    """
    clock = clock or SystemClock()
    scoring.score_prepared([prepared], with_embeddings=True)
    for size in batch_sizes(max_batch):
        begin_s = clock.monotonic()
        scoring.score_prepared([prepared] * size)
        latency.learn(2 * size, clock.monotonic() - begin_s)
