"""What reviewers, users and appeals establish about one decided submission: when, how noisily, with which chance."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from marketplace.config import POLICIES, WorldConfig
from marketplace.scenes import Cell
from moderation.listing import Appeal, GroundTruth, Report, TruthSource
from moderation.policy import Tier

WorldEvent = GroundTruth | Report | Appeal

_MISSED: Final = {"needs_both": 0.04, "undecidable": 0.06, "words_in_photo": 0.05}
_MISSED_OTHERWISE: Final = 0.008
_FALSE_ALARM: Final = {"honest_undecidable": 0.06, "honest_prop": 0.03, "honest_photo_explained": 0.004}  # fmt: skip
_REPORTED: Final = 0.25
_REPORTED_LOOKALIKE: Final = 0.01
_REPORTED_ORDINARY: Final = 0.002
_ADJUDICATED: Final = 0.25
_APPEALS: Final = {False: 0.6, True: 0.12}
_WRONG_APPEAL: Final = 0.03


@dataclass(frozen=True)
class Outcome:
    """The events about one submission, each with the instant at which it becomes known."""

    events: tuple[tuple[datetime, WorldEvent], ...]
    is_established: bool
    """Whether the truth, once it arrives, names a violation."""


def event_time(event: WorldEvent) -> datetime:
    """Return the instant at which `event` becomes known."""
    if isinstance(event, GroundTruth):
        return event.known_at
    if isinstance(event, Report):
        return event.reported_at
    return event.resolved_at or event.opened_at


def draw_outcome(
    config: WorldConfig,
    submission_id: str,
    cell: Cell,
    submitted_at: datetime,
    tier: Tier,
    rng: np.random.Generator,
) -> Outcome:
    """Return what will become known; a submission that nobody flags, reports or audits stays unknown."""
    reported_at = _draw_report(cell, submitted_at, tier, rng)
    is_audited = rng.random() < config.audit_probability
    events: list[tuple[datetime, WorldEvent]] = []
    if reported_at:
        report = Report(
            report_id=f"r-{submission_id}", submission_id=submission_id, reported_at=reported_at
        )
        events.append((reported_at, report))
    if tier >= Tier.REVIEW:
        source, propensity = TruthSource.REVIEW, 1.0
        reviewed_at = submitted_at + _delay(14, rng)
    elif reported_at:
        source, propensity = TruthSource.REPORT, 1.0
        reviewed_at = reported_at + _delay(20, rng)
    elif is_audited:
        source, propensity = TruthSource.AUDIT, config.audit_probability
        reviewed_at = submitted_at + _delay(50, rng)
    else:
        return Outcome((), False)
    sees_violation, adjudicated = _review(config, cell, rng)
    known_at = reviewed_at + _delay(3, rng)
    facts = {
        "submission_id": submission_id,
        "source": source,
        "reviewed_at": reviewed_at,
        "known_at": known_at,
        "propensity": propensity,
        "adjudicated": adjudicated,
    }
    seen = cell.policy if sees_violation else None
    events += [(known_at, truth) for truth in _truths(facts, seen)]
    if tier >= Tier.BLOCK:
        events += _appeal(facts, cell, reviewed_at, rng)
    return Outcome(tuple(events), sees_violation)


def _draw_report(
    cell: Cell, submitted_at: datetime, tier: Tier, rng: np.random.Generator
) -> datetime | None:
    chance = _REPORTED_LOOKALIKE if cell.policy else _REPORTED_ORDINARY
    chance = _REPORTED if cell.scene.violates else chance
    if rng.random() >= chance or tier >= Tier.BLOCK:
        return None
    return submitted_at + _delay(24, rng)


def _review(config: WorldConfig, cell: Cell, rng: np.random.Generator) -> tuple[bool, bool]:
    """Return whether the reviewer sees a violation, and whether a second one confirmed it (and is right)."""
    rates, usual = (_MISSED, _MISSED_OTHERWISE) if cell.scene.violates else (_FALSE_ALARM, 0.0)
    is_wrong = rng.random() < rates.get(cell.scene.name, usual) * config.reviewer_noise
    adjudicated = bool(rng.random() < _ADJUDICATED)
    return cell.scene.violates ^ (is_wrong and not adjudicated), adjudicated


def _truths(facts: dict[str, object], violated: str | None) -> list[GroundTruth]:
    return [
        GroundTruth.model_validate(facts | {"policy": policy, "violates": policy == violated})
        for policy in POLICIES
    ]


def _appeal(
    facts: dict[str, object], cell: Cell, reviewed_at: datetime, rng: np.random.Generator
) -> list[tuple[datetime, WorldEvent]]:
    if rng.random() >= _APPEALS[cell.scene.violates]:
        return []
    opened_at = reviewed_at + _delay(10, rng)
    resolved_at = opened_at + _delay(60, rng)
    overturned = (not cell.scene.violates) ^ bool(rng.random() < _WRONG_APPEAL)
    appeal = Appeal(
        appeal_id=f"a-{facts['submission_id']}",
        submission_id=str(facts["submission_id"]),
        opened_at=opened_at,
        resolved_at=resolved_at,
        overturned=overturned,
    )
    facts = facts | {
        "source": TruthSource.APPEAL,
        "reviewed_at": resolved_at,
        "known_at": resolved_at,
        "adjudicated": True,
    }
    truths = _truths(facts, None if overturned else cell.policy)
    return [(resolved_at, appeal), *((resolved_at, truth) for truth in truths)]


def _delay(median_hours: float, rng: np.random.Generator) -> timedelta:
    """Return a delay around the median: few are quick, some are very late."""
    return timedelta(milliseconds=int(median_hours * 3.6e6 * float(rng.lognormal(0, 0.6))))
