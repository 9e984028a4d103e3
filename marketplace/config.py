"""Settings of a simulated world: its size, its rates and the drifts that are switched on in it."""

from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import Final

from moderation.errors import PermanentError

WORLD_VERSION: Final = "2"
"""Changes when the same settings would give other listings; figures of two versions do not compare."""

POLICIES: Final = ("weapons", "counterfeit", "spam")
LANGUAGES: Final = ("en", "de", "es", "ru", "id")


class DriftKind(StrEnum):
    """What can go wrong, or be made to go wrong, from a date on."""

    NEW_EVASION = "new_evasion"
    CAMERA_CHANGE = "camera_change"
    SCHEMA_FAULT = "schema_fault"
    PRIOR_SHIFT = "prior_shift"
    MODALITY_BROKEN = "modality_broken"


@dataclass(frozen=True)
class Drift:
    """One drift, from `start` until the day before `end`."""

    kind: DriftKind
    start: date
    end: date | None = None
    strength: float = 1.0
    """Share of the submissions that it touches; of a prior shift, the factor on those who mean harm."""

    def holds(self, day: date) -> bool:
        """Return whether the drift is on at `day`."""
        return self.start <= day and (self.end is None or day < self.end)


@dataclass(frozen=True)
class WorldConfig:
    """Settings of one world; the same settings and the same decisions give the same bytes."""

    seed: int = 7
    start: date = date(2026, 1, 5)
    days: int = 100
    violations_per_day: float = 68.0
    """Violating submissions of all policies that an average day would bring if nothing was ever stopped."""

    prevalence: float = 1 / 500
    """Violations of one policy per submission, before thinning."""

    lookalikes_per_violation: float = 5.0
    """Honest submissions that look like a violation of a policy, per violation of it, before thinning."""

    keep_lookalike: float = 1 / 9
    """Share of the honest sellers of lookalike goods that the thinned stream keeps."""

    keep_ordinary: float = 1 / 100
    """Share of the other honest sellers that the thinned stream keeps; a seller is kept with all it does."""

    audit_probability: float = 0.6
    """Chance that a kept submission which nobody flagged or reported is reviewed all the same."""

    reviewer_noise: float = 1.0
    """Factor on the error rates of reviewers; 0 gives perfect ones."""

    drifts: tuple[Drift, ...] = ()

    def __post_init__(self) -> None:
        for name in ("prevalence", "keep_lookalike", "keep_ordinary", "audit_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise PermanentError(f"{name}: must be above 0 and at most 1")
        if self.days < 1 or self.violations_per_day <= 0 or self.lookalikes_per_violation <= 0:
            raise PermanentError(
                "days, violations_per_day, lookalikes_per_violation: must be positive"
            )

    @classmethod
    def default(cls, *, seed: int = 7) -> "WorldConfig":
        """Return the world of the default snapshot."""
        return cls(seed=seed)

    @classmethod
    def demo(cls, *, seed: int = 7) -> "WorldConfig":
        """Return some 2,000 listings, which a laptop trains on in minutes."""
        return cls(seed=seed, days=60, violations_per_day=8.0)

    @classmethod
    def audit(cls, *, seed: int = 7) -> "WorldConfig":
        """Return a world between the demo and the default, for the audit of the world itself."""
        return cls(
            seed=seed,
            days=70,
            violations_per_day=12.0,
            keep_lookalike=1 / 9,
            keep_ordinary=1 / 300,
            audit_probability=0.7,
        )

    @classmethod
    def tiny(cls, *, seed: int = 7) -> "WorldConfig":
        """Return some 500 listings for tests."""
        return cls(seed=seed, days=14, violations_per_day=8.0)

    def scaled(self, factor: float) -> "WorldConfig":
        """Return the same world with `factor` times the traffic per day."""
        return replace(self, violations_per_day=self.violations_per_day * factor)

    def drift(self, kind: DriftKind, day: date) -> float:
        """Return the strength of `kind` at `day`; 0 where it is off."""
        return max((d.strength for d in self.drifts if d.kind is kind and d.holds(day)), default=0)
