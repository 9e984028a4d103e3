"""Latency of single listings from raw bytes, candidate and champion in turn, and the sizes of both bundles.

What is measured is the bundle, not its neighbours on the machine: one thread, both warmed up, garbage collection
paused, the two in turn (ABBA, so that neither is always second), every listing once. A round that shows enough is
the only one; a burst of another process spoils a round, so what it does not show is asked twice more. All of it is
kept: a bundle that stalls now and then stalls in every round, and the fastest or the middle repeat of each listing
would hide that. One chance more to pass costs little: a bundle at the limit passes one round with at most 5 %, and the
middle of three, after a round that it did not pass, with less than 1 %.

K rounds, R listings, S bundles.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.prove.collector import collector_paused
from moderation.bundle import Bundle
from moderation.clock import Clock
from moderation.errors import InvalidSnapshot
from moderation.gates.evidence import Costs
from moderation.rescoring import LazyItem
from moderation.scores import Scores
from moderation.scoring import Scorer, ScoringItem

_WARM_UP: Final = 8
_ROUNDS: Final = 3
"""Where one is not enough. Odd, so that one is in the middle."""

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
    is_enough: Callable[[Costs], bool] = lambda costs: False,
) -> Costs:
    """Return latencies of listings drawn from `items`, and the sizes of both bundles.

    Args:
        items: listings with something to score.
        candidate: on one thread.
        champion: on one thread; None for a first release.
        clock: its monotonic seconds.
        seed: draws the listings.
        num_listings: how many are drawn, of fewer all.
        is_enough: whether the costs of a first round show all that is asked.

    Raises:
        InvalidSnapshot: if there is no listing.
        ContentMissing: if an image is not there any more.
    """
    if not items:
        raise InvalidSnapshot("there is no listing to measure latency on; take the traffic first")
    order = np.random.default_rng(seed).permutation(len(items))[:num_listings]
    drawn = [_loaded(items[place]) for place in order.tolist()]
    sides = [candidate] if champion is None else [candidate, champion]

    def costs_of(latency_KRS: Floats) -> Costs:
        return Costs(
            latency_KRS[..., 0],
            bundle_bytes(candidate.bundle),
            None if champion is None else latency_KRS[..., 1],
            None if champion is None else bundle_bytes(champion.bundle),
        )

    return costs_of(
        latencies(drawn, sides, clock, lambda first_KRS: is_enough(costs_of(first_KRS)))
    )


def latencies(
    items: Sequence[ScoringItem],
    sides: Sequence[Answering],
    clock: Clock,
    is_enough: Callable[[Floats], bool] = lambda first_KRS: False,
) -> Floats:
    """Return the milliseconds of each listing by each bundle in one round or three, latency_KRS.

    Args:
        items: at least one.
        sides: one or two bundles.
        clock: its monotonic seconds.
        is_enough: whether the latencies of a first round show all that is asked.
    """
    with collector_paused():
        for item in items[:_WARM_UP]:
            for side in sides:
                side.score([item])
        rounds = [_round(items, sides, clock, 0)]
        if not is_enough(np.stack(rounds)):
            rounds += [_round(items, sides, clock, turn) for turn in range(1, _ROUNDS)]
        return np.stack(rounds)


def bundle_bytes(bundle: Bundle) -> int:
    """Return the size of the files that the manifest names; attestations are not part of a bundle."""
    return sum((bundle.folder / name).stat().st_size for name in bundle.manifest.files)


def _round(
    items: Sequence[ScoringItem], sides: Sequence[Answering], clock: Clock, first: int
) -> Floats:
    """Return the milliseconds of every listing once, latency_RS; every other one is asked the other way round."""
    latency_RS = np.empty((len(items), len(sides)))
    for place, item in enumerate(items):
        order = range(len(sides)) if (first + place) % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            begin = clock.monotonic()
            sides[side].score([item])
            latency_RS[place, side] = (clock.monotonic() - begin) * 1_000
    return latency_RS


def _loaded(item: LazyItem) -> ScoringItem:
    """Return a listing with its bytes in memory: reading them is the gateway's cost."""
    images: list[bytes | Image.Image] = [image.load() for image in item.images]
    return ScoringItem(item.title, item.description, images, item.behaviour, item.behaviour_status)
