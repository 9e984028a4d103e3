"""What a decision is made of, before it has an id: from stage 1 and a release, or from an earlier decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from moderation.decision import Attempt, Decision, Earlier, FeatureValue, Versions
from moderation.stage_1 import Stage1, StageSignal
from serving.client import Query
from serving.routing import Choice


@dataclass(frozen=True)
class Asked:
    """What a release was asked about an upload, and what it said."""

    query: Query
    attempt: Attempt
    expected: Mapping[str, float] = field(default_factory=dict)
    """Policy -> share of listings at block or stronger that calibration expected of the bundle."""

    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """All that is known of an upload when its decision is taken."""

    choice: Choice | None
    """The release that would answer; None where there is no routing table."""

    stage_1: Stage1 | None
    attempts: tuple[Attempt, ...]
    """Empty where stage 1 decided."""

    features: tuple[FeatureValue, ...]
    features_through: datetime | None
    versions: Versions
    degraded: tuple[str, ...]
    duplicate_of: Earlier | None = None
    asked: Asked | None = None
    """None where no release was asked about this very upload."""


def repeated(signal: StageSignal, earlier: Decision, choice: Choice | None) -> Judged:
    """Return what a decision about a repeated upload is made of: all that the earlier one was.

    Args:
        signal: says that it is repeated; takes the place of what the earlier upload's look for repetitions said.
        earlier: whose answer holds still.
        choice: for this upload.
    """
    stage_1 = earlier.stage_1
    if stage_1 is not None:
        kept = (one for one in stage_1.signals if one.name != signal.name)
        changed = {"signals": (signal, *kept), "latency_ms": signal.latency_ms}
        stage_1 = stage_1.model_copy(update=changed)
    return Judged(
        choice,
        stage_1,
        earlier.attempts,
        earlier.features,
        earlier.features_through,
        earlier.versions,
        degraded=(),
        duplicate_of=Earlier(
            decision_id=earlier.decision_id,
            trace_id=earlier.trace_id,
            submission_id=earlier.submission_id,
        ),
    )
