"""Latency of single listings from raw bytes, candidate and champion in turn, and the sizes of both bundles.

What is measured is the bundle, not its neighbours on the machine: one thread, both warmed up, garbage collection
paused, the two in turn (ABBA, so that neither is always second), and what looked slow measured again later, until a
repeat confirms it: of a listing's repeats the fastest counts. A burst of another process rarely hits one twice.

R listings, S bundles.
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.bundle import Bundle
from moderation.clock import Clock
from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Costs
from moderation.rescoring import LazyItem
from moderation.scores import Scores
from moderation.scoring import Scorer, ScoringItem

_WARM_UP: Final = 8
_SLOW_SHARE: Final = 0.1
"""Slowest listings of either side that are measured again: the percentile depends on no others."""

_REPEATS: Final = 3
_SETTLED: Final = 0.8
"""A repeat that takes at least this share of the time before shows that the listing, not a neighbour, is slow."""

Floats = npt.NDArray[np.float64]


class Answering(Protocol):
    """A loaded bundle."""

    def score(self, items: Sequence[ScoringItem], /) -> Scores:
        """Return the scores of `items`."""
        ...


def take_costs(
    items: Sequence[LazyItem],
    candidate: Scorer,
    champion: Scorer | None,
    clock: Clock,
    seed: int,
    *,
    num_listings: int,
) -> Costs:
    """Return latencies of listings drawn from `items`, and the sizes of both bundles.

    Args:
        items: listings with something to score.
        candidate: on one thread.
        champion: on one thread; None for a first release.
        num_listings: how many are drawn, of fewer all.
        clock: its monotonic seconds.
        seed: draws the listings.

    Raises:
        InvalidSnapshot: if there is no listing.
        ContentMissing: if an image is not there any more.
    """
    if not items:
        raise InvalidSnapshot("there is no listing to measure latency on; take the traffic first")
    order = np.random.default_rng(seed).permutation(len(items))[:num_listings]
    drawn = [_loaded(items[place]) for place in order.tolist()]
    sides = [candidate] if champion is None else [candidate, champion]
    latency_RS = latencies(drawn, sides, clock)
    return Costs(
        latency_RS[:, 0],
        bundle_bytes(candidate.bundle),
        None if champion is None else latency_RS[:, 1],
        None if champion is None else bundle_bytes(champion.bundle),
    )


def latencies(items: Sequence[ScoringItem], sides: Sequence[Answering], clock: Clock) -> Floats:
    """Return the milliseconds of each listing by each bundle, latency_RS.

    Args:
        items: at least one.
        sides: one or two bundles.
        clock: its monotonic seconds.
    """
    best_RS = np.full((len(items), len(sides)), np.inf)
    with _collector_paused():
        for item in items[:_WARM_UP]:
            for side in sides:
                side.score([item])
        _measure(items, sides, clock, best_RS, range(len(items)))
        is_settled_R = np.zeros(len(items), bool)
        for _ in range(_REPEATS):
            places = [place for place in _slowest(best_RS) if not is_settled_R[place]]
            before_RS = best_RS.copy()
            _measure(items, sides, clock, best_RS, places)
            is_settled_R[places] = (best_RS[places] >= _SETTLED * before_RS[places]).all(axis=1)
    return best_RS


def bundle_bytes(bundle: Bundle) -> int:
    """Return the size of the files that the manifest names; attestations are not part of a bundle."""
    return sum((bundle.folder / name).stat().st_size for name in bundle.manifest.files)


def _measure(
    items: Sequence[ScoringItem],
    sides: Sequence[Answering],
    clock: Clock,
    best_RS: Floats,
    places: Sequence[int],
) -> None:
    for turn, place in enumerate(places):
        order = range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            begin = clock.monotonic()
            sides[side].score([items[place]])
            spent_ms = (clock.monotonic() - begin) * 1_000
            best_RS[place, side] = min(best_RS[place, side], spent_ms)


def _slowest(best_RS: Floats) -> list[int]:
    """Return the places of the slowest listings of any side, slowest last: repeats lie apart in time."""
    num = max(1, round(_SLOW_SHARE * len(best_RS)))
    places = np.unique(np.argsort(best_RS, axis=0, kind="stable")[-num:])
    found: list[int] = places[np.argsort(best_RS[places].max(axis=1), kind="stable")].tolist()
    return found


def _loaded(item: LazyItem) -> ScoringItem:
    """Return a listing with its bytes in memory: reading them is the gateway's cost."""
    images: list[bytes | Image.Image] = [image.load() for image in item.images]
    return ScoringItem(item.title, item.description, images, item.behaviour, item.behaviour_status)


@contextmanager
def _collector_paused() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
