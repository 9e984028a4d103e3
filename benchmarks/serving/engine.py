"""The limit: the same graph in a loop, without a server."""

from pathlib import Path

from moderation.clock import SystemClock
from moderation.scoring import Scorer, ScoringItem

Listing = tuple[str, bytes | None]
"""Title, and the photo where there is one."""


def item_of(title: str, image: bytes | None) -> ScoringItem:
    """Return a listing as the scorer takes it."""
    return ScoringItem(title, "", () if image is None else (image,))


def loop(
    bundle: str, title: str, image: bytes | None, num_threads: int, seconds: float
) -> dict[str, float]:
    """Return listings a second of prepared batches, and of batches that are prepared on the way; best size each."""
    scorer, clock = Scorer.load(Path(bundle), num_threads), SystemClock()
    item = item_of(title, image)
    prepared = scorer.prepare(item)
    best = {"engine": 0.0, "engine with preparation": 0.0}
    for size in (1, 8, 32):
        for name in best:
            count, begin_s = 0, clock.monotonic()
            while clock.monotonic() - begin_s < seconds:
                is_bare = name == "engine"
                batch = (
                    [prepared] * size
                    if is_bare
                    else list(scorer.image_encoder.each(scorer.prepare, [item] * size))
                )
                scorer.score_prepared(batch)
                count += size
            best[name] = max(best[name], count / (clock.monotonic() - begin_s))
    return best
