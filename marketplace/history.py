"""A whole history: the world and whoever decides, day after day, into a sink."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Final, Protocol

from marketplace.outcomes import WorldEvent
from marketplace.world import World
from moderation.listing import Submission
from moderation.policy import PolicyFile, load_policies

Decide = Callable[[Submission, list[bytes]], str]
"""The tier of a submission; whoever keeps a record of it does so in here."""

POLICY_FILE: Final = Path("policies/marketplace.yaml")


class Sink(Protocol):
    """Where a history goes, in time order within each of its two streams, a day at a time."""

    def on_submission(self, submission: Submission, images: list[bytes]) -> None:
        """Take one submission."""
        ...

    def on_event(self, event: WorldEvent) -> None:
        """Take what became known."""
        ...


class KeywordRule:
    """The decisions of a marketplace before it has any model: review what holds a listed word."""

    def __init__(self, policies: PolicyFile) -> None:
        self._words = tuple(word for policy in policies.policies for word in policy.keywords)

    def __call__(self, submission: Submission, images: list[bytes]) -> str:
        """Return `review` where a keyword of any policy occurs, else `allow`."""
        text = f"{submission.listing.title} {submission.listing.description}".casefold()
        return "review" if any(word in text for word in self._words) else "allow"


@cache
def default_rule(path: Path = POLICY_FILE) -> KeywordRule:
    """Return the keyword rule of a policy file."""
    return KeywordRule(load_policies(path))


def simulate(world: World, sink: Sink, decide: Decide) -> int:
    """Run every day of `world` through `decide` into `sink`; return the number of submissions.

    Memory stays flat: nothing is kept but the day's decisions and what is still on its way.
    """
    num_submissions = 0
    for today in world.dates:
        decisions: list[tuple[str, str]] = []
        for submission, images in world.day(today):
            sink.on_submission(submission, images)
            decisions.append((submission.submission_id, decide(submission, images)))
        num_submissions += len(decisions)
        _forward(sink, world.react(today, decisions))
    return num_submissions


def _forward(sink: Sink, events: Iterable[WorldEvent]) -> None:
    for event in events:
        sink.on_event(event)
