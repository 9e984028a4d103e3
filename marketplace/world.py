"""The world itself, a day at a time: what is submitted, then what follows from the decisions about it."""

import hashlib
import heapq
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import numpy as np

from marketplace.config import POLICIES, WorldConfig
from marketplace.offers import Plan, make_offer, plan
from marketplace.outcomes import WorldEvent, draw_outcome
from marketplace.population import Population, calendar_factor, draw_instant
from marketplace.scenes import Cell, oracle_probability
from marketplace.sellers import Intent, Seller
from moderation.errors import PermanentError
from moderation.listing import Submission
from moderation.policy import Tier

_MAX_ATTEMPTS: Final = 3
_STRIKES: Final = 3
_CAMPAIGN_STRIKES: Final = 2
_GIVES_UP: Final = 0.15
_TRIES_AGAIN: Final = 0.45


@dataclass(frozen=True)
class Oracle:
    """What only the world knows of one submission."""

    violated: str | None
    """The policy that it violates; None when it is honest."""

    scene: str
    probability: dict[str, float]
    """Per policy, the best probability for who sees the kinds of photo and words but not the truth."""


@dataclass(frozen=True)
class _Undecided:
    intended: Plan
    submitted_at: datetime


class World:
    """A seeded marketplace. Call `day`, consume it, then `react` to it, for one day after the other."""

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._population = Population(config)
        self._cells = array("B")
        self._undecided: dict[str, _Undecided] = {}
        self._retries: list[tuple[datetime, int, Plan]] = []
        self._known: list[tuple[datetime, int, WorldEvent]] = []
        self._strikes: list[tuple[datetime, int, Plan, bool]] = []
        self._sequence = 0
        self._next_day = config.start

    @property
    def dates(self) -> list[date]:
        """The days of this world."""
        return [self.config.start + timedelta(days=i) for i in range(self.config.days)]

    def day(self, today: date) -> Iterator[tuple[Submission, list[bytes]]]:
        """Yield the submissions of `today` with their images, in time order.

        Raises:
            PermanentError: if `today` is not the day after the one before.
        """
        if today != self._next_day:
            raise PermanentError(f"days come one after the other: {self._next_day}, not {today}")
        self._next_day = today + timedelta(days=1)
        rng = self._generator(41, (today - self.config.start).days)
        acts = self._acts(today, rng)
        for at, seller, again in acts:
            if seller.is_gone:
                continue
            number = len(self._cells)
            own = self._generator(42, number)
            intended = again or plan(seller, number, own)
            offer = make_offer(self.config, intended, at, own)
            submission = Submission(
                submission_id=f"s-{number}",
                listing=offer.listing,
                image_digests=tuple(hashlib.sha256(image).hexdigest() for image in offer.images),
                submitted_at=at,
                inclusion_probability=self._population.inclusion_probability(seller),
                attributes=offer.attributes,
            )
            self._cells.append(intended.cell.code)
            self._undecided[submission.submission_id] = _Undecided(intended, at)
            yield submission, list(offer.images)

    def react(self, today: date, decisions: Iterable[tuple[str, str]]) -> Iterator[WorldEvent]:
        """Yield, in time order, what became known until the end of `today`, and let sellers learn from it.

        Args:
            today: the day that was consumed last.
            decisions: submission and tier; a submission of the day that is not there counts as allowed.

        Raises:
            PermanentError: if `today` is another day, or a submission is unknown or was decided before.
        """
        if today + timedelta(days=1) != self._next_day:
            raise PermanentError(f"react to the day that was consumed last, not to {today}")
        tiers = {submission_id: Tier[tier.upper()] for submission_id, tier in decisions}
        strangers = tiers.keys() - self._undecided.keys()
        if strangers:
            raise PermanentError(f"no such open submission: {sorted(strangers)[:3]}")
        for submission_id, open_one in self._undecided.items():
            self._decide(submission_id, open_one, tiers.get(submission_id, Tier.ALLOW), today)
        self._undecided.clear()
        end = datetime.combine(self._next_day, time(), UTC)
        while self._strikes and self._strikes[0][0] < end:
            at, sequence, intended, was_stopped = heapq.heappop(self._strikes)
            self._learn(intended, was_stopped, at, sequence)
        while self._known and self._known[0][0] < end:
            yield heapq.heappop(self._known)[2]

    def oracle(self, submission_id: str) -> Oracle:
        """Return the noise-free truth of a submission of this world; for evaluation, never for a model."""
        number = int(submission_id.removeprefix("s-"))
        cell = Cell.from_code(self._cells[number])
        chances = {policy: oracle_probability(cell, self.config, policy) for policy in POLICIES}
        return Oracle(cell.violated, cell.scene.name, chances)

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.config.seed, *key))

    def _acts(
        self, today: date, rng: np.random.Generator
    ) -> list[tuple[datetime, Seller, Plan | None]]:
        busy = calendar_factor(today, (today - self.config.start).days)
        acts: list[tuple[datetime, Seller, Plan | None]] = [
            (draw_instant(today, rng), seller, None)
            for seller in self._population.wake(today, rng)
            for _ in range(int(rng.poisson(seller.rate_per_day * busy)))
        ]
        end = datetime.combine(today + timedelta(days=1), time(), UTC)
        begin = end - timedelta(days=1)
        while self._retries and self._retries[0][0] < end:
            at, _, again = heapq.heappop(self._retries)
            acts.append((max(at, begin), again.seller, again))
        return sorted(acts, key=lambda act: (act[0], act[1].number))

    def _decide(self, submission_id: str, open_one: _Undecided, tier: Tier, today: date) -> None:
        intended, at = open_one.intended, open_one.submitted_at
        rng = self._generator(43, int(submission_id.removeprefix("s-")))
        outcome = draw_outcome(self.config, submission_id, intended.cell, at, tier, rng)
        for known_at, event in outcome.events:
            self._sequence += 1
            heapq.heappush(self._known, (known_at, self._sequence, event))
        seller = intended.seller
        if seller.intent is not Intent.HARM:
            return
        if tier >= Tier.SUSPEND:
            self._population.suspend(seller, (today - self.config.start).days, rng)
        elif outcome.is_established:
            self._sequence += 1
            known_at = max(instant for instant, _ in outcome.events)
            entry = (known_at, self._sequence, intended, tier >= Tier.REVIEW)
            heapq.heappush(self._strikes, entry)

    def _learn(self, intended: Plan, was_stopped: bool, at: datetime, sequence: int) -> None:
        seller, rng = intended.seller, self._generator(44, sequence)
        seller.strikes += 1
        limit = _CAMPAIGN_STRIKES if seller.campaign else _STRIKES
        if seller.strikes >= limit:
            self._population.suspend(seller, (at.date() - self.config.start).days, rng)
        elif rng.random() < _GIVES_UP:
            seller.is_gone = True
        elif (
            intended.attempt < _MAX_ATTEMPTS and rng.random() < _TRIES_AGAIN * (1 + was_stopped) / 2
        ):
            due = at + timedelta(hours=float(rng.uniform(1, 36)))
            self._sequence += 1
            again = replace(intended, attempt=intended.attempt + 1)
            heapq.heappush(self._retries, (due, self._sequence, again))
