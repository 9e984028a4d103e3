"""The world is stepped, seeded, and answers decisions."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from marketplace.config import POLICIES, WorldConfig
from marketplace.history import default_rule, simulate
from marketplace.outcomes import WorldEvent, event_time
from marketplace.world import World
from moderation.errors import PermanentError
from moderation.listing import GroundTruth, Report, Submission, TruthSource


class Kept:
    """A sink that keeps everything of a small world."""

    def __init__(self) -> None:
        self.submissions: dict[str, Submission] = {}
        self.images: dict[str, list[bytes]] = {}
        self.events: list[WorldEvent] = []

    def on_submission(self, submission: Submission, images: list[bytes]) -> None:
        self.submissions[submission.submission_id] = submission
        self.images[submission.submission_id] = images

    def on_event(self, event: WorldEvent) -> None:
        self.events.append(event)

    def truths(self) -> list[GroundTruth]:
        return [event for event in self.events if isinstance(event, GroundTruth)]


def run(
    config: WorldConfig, decide: Callable[[Submission, list[bytes]], str] | None = None
) -> tuple[World, Kept]:
    world, kept = World(config), Kept()
    simulate(world, kept, decide or default_rule())
    return world, kept


@pytest.fixture(scope="module")
def tiny() -> tuple[World, Kept]:
    return run(WorldConfig.tiny())


def digest(kept: Kept) -> str:
    total = hashlib.sha256()
    for submission in kept.submissions.values():
        total.update(submission.model_dump_json().encode())
        for image in kept.images[submission.submission_id]:
            total.update(image)
    for event in kept.events:
        total.update(event.model_dump_json().encode())
    return total.hexdigest()


def test_world_gives_same_bytes_for_same_seed() -> None:
    config = WorldConfig(days=4, violations_per_day=4)
    first, second = (digest(run(config)[1]) for _ in range(2))
    assert first == second
    assert first != digest(run(WorldConfig(seed=8, days=4, violations_per_day=4))[1])


def test_images_hash_to_their_digests(tiny: tuple[World, Kept]) -> None:
    _, kept = tiny
    for submission_id, images in kept.images.items():
        digests = tuple(hashlib.sha256(image).hexdigest() for image in images)
        assert digests == kept.submissions[submission_id].image_digests


def test_submissions_and_events_come_in_time_order(tiny: tuple[World, Kept]) -> None:
    _, kept = tiny
    uploads = [submission.submitted_at for submission in kept.submissions.values()]
    assert uploads == sorted(uploads)
    times = [event_time(event) for event in kept.events]
    assert times == sorted(times)


def test_truth_is_never_known_before_submission(tiny: tuple[World, Kept]) -> None:
    _, kept = tiny
    for truth in kept.truths():
        assert truth.reviewed_at > kept.submissions[truth.submission_id].submitted_at
        assert truth.known_at >= truth.reviewed_at


def test_truth_covers_every_policy_once_per_review(tiny: tuple[World, Kept]) -> None:
    _, kept = tiny
    counts = Counter((t.submission_id, t.source, t.policy) for t in kept.truths())
    assert set(counts.values()) == {1}
    assert {policy for _, _, policy in counts} == set(POLICIES)


def test_propensity_is_one_when_flagged_or_reported(tiny: tuple[World, Kept]) -> None:
    world, kept = tiny
    config = world.config
    reported = {event.submission_id for event in kept.events if isinstance(event, Report)}
    sources = {truth.source for truth in kept.truths()}
    assert {TruthSource.REVIEW, TruthSource.AUDIT} <= sources
    for truth in kept.truths():
        is_audit = truth.source is TruthSource.AUDIT
        assert truth.propensity == (config.audit_probability if is_audit else 1.0)
        assert not (is_audit and truth.submission_id in reported)


def test_truth_follows_decisions_when_everything_is_blocked() -> None:
    blocked = run(WorldConfig.tiny(), lambda submission, images: "block")[1]
    allowed = run(WorldConfig.tiny(), lambda submission, images: "allow")[1]
    assert {truth.source for truth in allowed.truths()} <= {TruthSource.AUDIT, TruthSource.REPORT}
    assert TruthSource.APPEAL in {truth.source for truth in blocked.truths()}
    assert len(blocked.truths()) > len(allowed.truths())


def test_seller_disappears_when_suspended() -> None:
    world, kept = run(WorldConfig.tiny(), lambda submission, images: "suspend")
    seen: dict[str, set[str]] = {}
    for submission_id, submission in kept.submissions.items():
        if world.oracle(submission_id).violated:
            day = submission.submitted_at.date().isoformat()
            seen.setdefault(str(submission.listing.seller_id), set()).add(day)
    assert seen
    assert all(len(days) == 1 for days in seen.values())


def test_seller_tries_again_hidden_when_stopped() -> None:
    world, kept = run(WorldConfig(days=10, violations_per_day=6, keep_ordinary=1 / 500))
    by_listing: dict[str, list[Submission]] = {}
    for submission in kept.submissions.values():
        by_listing.setdefault(submission.listing.listing_id, []).append(submission)
    again = [attempts for attempts in by_listing.values() if len(attempts) > 1]
    assert again
    for first, second, *_ in again:
        assert second.submitted_at > first.submitted_at
        assert world.oracle(second.submission_id).violated
        assert second.image_digests != first.image_digests or not first.image_digests


def test_attributes_never_hold_the_truth(tiny: tuple[World, Kept]) -> None:
    _, kept = tiny
    allowed = {"template", "asset", "campaign", "evasion", "hard_negative", "needs_both"}
    for submission in kept.submissions.values():
        assert set(submission.attributes) <= allowed
        assert json.dumps(submission.attributes)


def test_oracle_probability_lies_between_zero_and_one(tiny: tuple[World, Kept]) -> None:
    world, kept = tiny
    for submission_id in kept.submissions:
        oracle = world.oracle(submission_id)
        assert all(0 <= chance <= 1 for chance in oracle.probability.values())
        if oracle.violated:
            assert oracle.probability[oracle.violated] > 0


def test_day_is_refused_when_out_of_order() -> None:
    world = World(WorldConfig.tiny())
    with pytest.raises(PermanentError, match="one after the other"):
        next(world.day(world.config.start + timedelta(days=1)))


def test_reaction_is_refused_when_submission_is_unknown() -> None:
    world = World(WorldConfig.tiny())
    list(world.day(world.config.start))
    with pytest.raises(PermanentError, match="no such open submission"):
        list(world.react(world.config.start, [("s-999", "allow")]))


@pytest.mark.parametrize("field", ["prevalence", "keep_ordinary", "audit_probability"])
def test_config_is_refused_when_chance_is_zero(field: str) -> None:
    with pytest.raises(PermanentError, match=field):
        replace(WorldConfig(), **{field: 0.0})  # type: ignore[arg-type]  # the name is a parameter
