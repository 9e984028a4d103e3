"""Who is there on which day: births, campaigns, departures, and the calendar that they keep."""

import math
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

import numpy as np

from marketplace.config import LANGUAGES, POLICIES, DriftKind, WorldConfig
from marketplace.sellers import (
    HARM_RATE,
    HARM_SHARE,
    LOOKALIKE_RATE,
    LOOKALIKE_SHARE,
    ORDINARY_RATE,
    Campaign,
    Intent,
    Seller,
    draw_seller,
)

_WEEKDAY: Final = (0.90, 0.92, 0.95, 1.0, 1.08, 1.12, 1.03)
_HOUR: Final = np.array(
    [2, 1, 1, 1, 1, 2, 4, 6, 8, 9, 10, 10, 11, 10, 9, 9, 10, 11, 13, 14, 13, 11, 8, 4], float
)
_SEASON: Final = 0.12
_TOP_UP: Final = 0.35
_REPLACES_STOPPED: Final = 1.45
"""Harmful sellers are stopped, and leave, faster than they are replaced: this evens it out."""

_CAMPAIGN_SHARE: Final = 0.4
_CAMPAIGN_SIZE: Final = (3, 8)


def calendar_factor(day: date, age_days: int) -> float:
    """Return how busy `day` is, around 1: the weekend is, and so is the season in which the world began.

    The season counts from the start, so that a world moved by whole weeks stays the same.
    """
    turn = 2 * math.pi * age_days / 365
    return _WEEKDAY[day.weekday()] * (1 + _SEASON * math.cos(turn))


def draw_instant(day: date, rng: np.random.Generator) -> datetime:
    """Return an instant of `day`, UTC, at an hour when people sell things."""
    hour = int(rng.choice(24, p=_HOUR / _HOUR.sum()))
    seconds = hour * 3600 + float(rng.random()) * 3600
    return datetime.combine(day, time(), UTC) + timedelta(milliseconds=int(seconds * 1000))


class Population:
    """The sellers that are kept by the thinning, and the campaigns among them."""

    def __init__(self, config: WorldConfig) -> None:
        self._config = config
        self._next_seller = 0
        self._next_campaign = 0
        self._returns: list[tuple[int, Seller]] = []
        self.sellers: list[Seller] = []
        rng = np.random.default_rng((config.seed, 21))
        for intent, size in self._targets(config.start).items():
            while self._living(intent) < size:
                self._add(intent, 0, rng)

    def wake(self, day: date, rng: np.random.Generator) -> list[Seller]:
        """Return the sellers of `day`, after births and departures."""
        age = (day - self._config.start).days
        self.sellers = [
            seller
            for seller in self.sellers
            if not seller.is_gone and age - seller.born_day <= seller.leaves_after_days
        ]
        back = [old for due, old in self._returns if due <= age]
        self._returns = [(due, old) for due, old in self._returns if due > age]
        for old in back:
            device = old.device if rng.random() < 0.5 else None
            self._born(old.intent, age, rng, campaign=old.campaign, device=device)
        for intent, size in self._targets(day).items():
            for _ in range(int(rng.poisson(max(0.0, size - self._living(intent)) * _TOP_UP))):
                self._add(intent, age, rng)
        return self.sellers

    def suspend(self, seller: Seller, age: int, rng: np.random.Generator) -> None:
        """Close an account; half of its owners come back with another one."""
        if seller.is_gone:
            return
        seller.is_gone = True
        if seller.intent is Intent.HARM and rng.random() < 0.5:
            self._returns.append((age + int(rng.integers(1, 5)), seller))

    def inclusion_probability(self, seller: Seller) -> float:
        """Return the chance that the thinning kept this seller with all it does."""
        return {
            Intent.HARM: 1.0,
            Intent.LOOKALIKE: self._config.keep_lookalike,
            Intent.ORDINARY: self._config.keep_ordinary,
        }[seller.intent]

    def _living(self, intent: Intent) -> int:
        return sum(seller.intent is intent for seller in self.sellers)

    def _targets(self, day: date) -> dict[Intent, float]:
        config = self._config
        usual = config.violations_per_day
        factor = config.drift(DriftKind.PRIOR_SHIFT, day) or 1.0
        lookalike = usual * config.lookalikes_per_violation
        ordinary = max(usual / len(POLICIES) / config.prevalence - lookalike, usual)
        return {
            Intent.HARM: usual * factor / (HARM_RATE * HARM_SHARE) * _REPLACES_STOPPED,
            Intent.LOOKALIKE: lookalike * config.keep_lookalike / LOOKALIKE_RATE / LOOKALIKE_SHARE,
            Intent.ORDINARY: ordinary * config.keep_ordinary / ORDINARY_RATE,
        }

    def _add(self, intent: Intent, age: int, rng: np.random.Generator) -> None:
        size = float(np.mean(_CAMPAIGN_SIZE))
        chance = _CAMPAIGN_SHARE / size / (1 - _CAMPAIGN_SHARE + _CAMPAIGN_SHARE / size)
        if intent is not Intent.HARM or rng.random() > chance:
            self._born(intent, age, rng)
            return
        number = self._next_campaign
        self._next_campaign += 1
        campaign = Campaign(
            campaign_id=f"c-{number}",
            policy=POLICIES[int(rng.integers(len(POLICIES)))],
            language=LANGUAGES[int(rng.integers(len(LANGUAGES)))],
            device=f"d-c{number}",
            address=f"a-c{number}",
        )
        for _ in range(int(rng.integers(_CAMPAIGN_SIZE[0], _CAMPAIGN_SIZE[1] + 1))):
            self._born(intent, age, rng, campaign=campaign)

    def _born(
        self,
        intent: Intent,
        age: int,
        rng: np.random.Generator,
        *,
        campaign: Campaign | None = None,
        device: str | None = None,
    ) -> None:
        number = self._next_seller
        self._next_seller += 1
        self.sellers.append(draw_seller(number, intent, age, rng, campaign=campaign, device=device))
