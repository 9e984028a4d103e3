"""Attacks by a bundle's own gradients on a few violations: the suite's own test. Loads torch.

R attacked rows.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from components.prove.frozen import FrozenRows
from moderation.attacks.gradients import one_thread
from moderation.attacks.registry import GATE, Subject
from moderation.attacks.white_box import UNLIMITED, Target, WhiteBox
from moderation.errors import InvalidListing
from moderation.gates.evidence import AttackOutcome, Floats
from moderation.image import decode
from moderation.release import Suite
from moderation.rescoring import LazyImage
from moderation.scoring import Scorer

FAMILY: Final = "white_box"

_TRIED: Final = (("joint", UNLIMITED, 1), ("pgd", GATE, 6), ("token_swap", GATE, 6))
"""Attack, severity, and one in how many rows: unlimited in all that it may change, the attack must succeed; at the
gate's severity, where a person sees no difference, it is shown and gates nothing, so that few rows do."""

Indices = npt.NDArray[np.int64]


def white_box_outcomes(
    golden: FrozenRows,
    found_NP: Floats,
    scorer: Scorer,
    suite: Suite,
    progress: Callable[[int, int], None],
) -> list[AttackOutcome]:
    """Return what the candidate's own gradients do to violations that it finds.

    Args:
        golden: gives the listings.
        found_NP: what the candidate says of them; the violations that it is surest of are attacked.
        scorer: the candidate.
        suite: how many rows and steps.
        progress: called with (listings done, listings in all).

    Raises:
        BundleRejected: if the bundle's weights do not fit its profile.
    """
    rows = _surest(golden, found_NP, suite.white_box_items)
    targets = [_target(golden, int(row)) for row in rows]
    box = WhiteBox(scorer, steps=suite.white_box_steps)
    outcomes, done = [], count(1)
    total = sum(len(targets[::one_in]) for _, _, one_in in _TRIED)
    for name, severity, one_in in _TRIED:
        items = []
        for target, subject in _side_by_side(getattr(box, name), targets[::one_in], severity):
            items.append(target.item(subject))
            progress(next(done), total)
        probability_RP = scorer.score(items).probability_NP
        chosen = rows[::one_in]
        outcomes.append(AttackOutcome(name, FAMILY, severity, chosen, probability_RP, None))
    return outcomes


def _side_by_side(
    attack: Callable[[Target, float], Subject], targets: Sequence[Target], severity: float
) -> Iterator[tuple[Target, Subject]]:
    """Yield each target with its attacked listing, in order: every listing on one thread, as many as there are cores.

    So the cores are used, and yet what comes of a listing does not depend on how many there are.
    """
    with one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from zip(targets, pool.map(lambda one: attack(one, severity), targets), strict=True)


def _surest(golden: FrozenRows, found_NP: Floats, num_rows: int) -> Indices:
    """Return the violations of which a policy that they do violate is most probable; each shows something."""
    certainty_N = np.where(golden.truth_NP == 1, found_NP, -1.0).max(axis=1)
    order = np.argsort(-certainty_N, kind="stable")
    shows = [
        row
        for row in order.tolist()
        if certainty_N[row] >= 0 and (golden.items[row].images or golden.items[row].title)
    ]
    return np.array(sorted(shows[:num_rows]), np.int64)


def _target(golden: FrozenRows, row: int) -> Target:
    item = golden.items[row]
    return Target(
        Subject(item.title, item.description, tuple(_decoded(item.images))),
        tuple(np.flatnonzero(golden.truth_NP[row] == 1).tolist()),
        item.behaviour,
        item.behaviour_status,
    )


def _decoded(images: Sequence[LazyImage]) -> list[Image.Image]:
    """Return the images that can be decoded; the others count for nothing, attacked or not."""
    found = []
    for image in images:
        loaded = image.load()
        try:
            found.append(decode(loaded) if isinstance(loaded, bytes) else loaded)
        except InvalidListing:
            continue
    return found
