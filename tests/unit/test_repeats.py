"""Which uploads are the same, and for how long and how often one answer is given to them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moderation.clock import SimulatedClock
from moderation.listing import Listing, Submission
from moderation.policy import Override, PolicyFile, load_policies
from moderation.repeats import JudgedBy, Kept, Repeats, repeat_key
from moderation.serving_rules import DuplicateRules

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
FILE = load_policies(Path("policies/marketplace.yaml"))
BY = JudgedBy("a" * 64, {"spam": "block"}, "p1", "b1")
RULES = DuplicateRules(window_s=60.0, max_repeats=2, max_answers=3)


def key(
    *,
    at: datetime = NOON,
    by: JudgedBy = BY,
    policies: PolicyFile = FILE,
    images: tuple[str, ...] = ("1" * 64, "2" * 64),
    **fields: Any,
) -> str | None:
    listing = {"listing_id": "l1", "seller_id": "s1", "title": "Blue bicycle", "price": 9.5}
    submission = Submission(
        submission_id="u1",
        listing=Listing.model_validate(listing | fields),
        image_digests=images,
        submitted_at=NOON,
    )
    return repeat_key(submission, by, policies, at)


def test_the_same_content_under_another_id_is_the_same() -> None:
    assert key(listing_id="l2") == key()


@pytest.mark.parametrize(
    "change",
    [
        {"seller_id": "s2"},
        {"title": "Blue bicycles"},
        {"description": "new"},
        {"price": 9.51},
        {"device_fingerprint": "d"},
        {"images": ("2" * 64, "1" * 64)},
        {"images": ("1" * 64,)},
        {"by": BY._replace(release="b" * 64)},
        {"by": BY._replace(caps={})},
        {"by": BY._replace(patterns="p2")},
        {"by": BY._replace(banks=None)},
        {"policies": FILE.model_copy(update={"digest": "0" * 64})},
        {"at": NOON + timedelta(days=1)},
    ],
    ids=str,
)
def test_whatever_an_answer_rests_on_makes_another_upload(change: dict[str, Any]) -> None:
    assert key(**change) != key()


def test_an_override_that_ended_makes_another_upload() -> None:
    fields = {"policy": "spam", "tier": "block", "threshold": 0.2, "by": "mk"}
    until = NOON + timedelta(seconds=10)
    override = Override.model_validate(fields | {"reason": "a wave of scams", "until": until})
    held = FILE.model_copy(update={"overrides": (override,)})
    assert key(policies=held) == key(policies=held, at=NOON + timedelta(seconds=9))
    assert key(policies=held) != key(policies=held, at=until)


def test_nobody_repeats_where_no_seller_is_named() -> None:
    assert key(seller_id=None) is None


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock(NOON)


@pytest.fixture
def repeats(clock: SimulatedClock) -> Repeats:
    return Repeats(RULES, clock)


def kept(number: int) -> Kept:
    return Kept(f"u{number}", f"d{number}")


def test_an_answer_is_given_a_few_times(repeats: Repeats) -> None:
    repeats.keep("k", kept(0))
    assert [repeats.take("k", f"v{number}") for number in range(3)] == [kept(0), kept(0), None]
    assert repeats.take("k", "v4") is None
    repeats.keep("k", kept(5))
    assert repeats.take("k", "v6") == kept(5), "the model was asked again"


def test_an_answer_grows_old(repeats: Repeats, clock: SimulatedClock) -> None:
    repeats.keep("k", kept(0))
    clock.advance(60)
    assert repeats.take("k", "v1") == kept(0)
    clock.advance(1)
    assert repeats.take("k", "v2") is None
    assert len(repeats) == 0


def test_no_more_answers_are_held_than_said(repeats: Repeats) -> None:
    for number in range(9):
        repeats.keep(f"k{number}", kept(number))
    assert len(repeats) == RULES.max_answers
    assert repeats.take("k5", "v") is None
    assert repeats.take("k8", "v") == kept(8)


@pytest.mark.parametrize("about", ["u0", "v1"])
def test_an_answer_is_forgotten_whichever_upload_is_judged(repeats: Repeats, about: str) -> None:
    repeats.keep("k", kept(0))
    assert repeats.take("k", "v1") == kept(0)
    repeats.forget({about, "somebody-elses"})
    assert "k" not in repeats
    assert repeats.take("k", "v2") is None


def test_an_upload_never_repeats_itself(repeats: Repeats) -> None:
    repeats.keep("k", kept(0))
    assert repeats.take("k", "u0") is None
    assert repeats.take("k", "v1") == kept(0)
    assert repeats.take("k", "v1") is None


def test_none_is_kept_where_the_rules_say_so(clock: SimulatedClock) -> None:
    repeats = Repeats(RULES.model_copy(update={"max_repeats": 0}), clock)
    repeats.keep("k", kept(0))
    assert len(repeats) == 0
