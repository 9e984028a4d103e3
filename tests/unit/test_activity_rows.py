"""Rows of activity: the same from the same events in whatever order, and read back as they were written."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.activity import ActivityState
from moderation.activity_rows import (
    MAX_PLACES,
    MAX_RECENT,
    ActivityRowError,
    PlaceActivity,
    RowKind,
    SellerActivity,
)
from moderation.behaviour import Keys, Rows, behaviour
from moderation.features import FEATURE_NAMES
from moderation.listing import Appeal, GroundTruth, Listing, Report, Submission, TruthSource

START = datetime(2026, 3, 1, tzinfo=UTC)
Event = Callable[[ActivityState], None]


def _submission(number: int, at: datetime, **fields: Any) -> Submission:
    listing = {"listing_id": f"l{number}", "seller_id": "s1"} | fields
    return Submission(submission_id=f"u{number}", listing=Listing(**listing), submitted_at=at)


def _drawn_events(rng: Random, num: int) -> list[Event]:
    """Return events of three sellers over 120 days: uploads, truths that change, reports and appeals."""
    events: list[Event] = []
    for number in range(num):
        at = START + timedelta(days=rng.uniform(0, 120))
        seller = rng.choice(["s1", "s2", "s3"])
        upload = _submission(
            number,
            at,
            seller_id=seller,
            device_fingerprint=rng.choice([None, "d1", "d2"]),
            address_fingerprint=rng.choice([None, "a1", "a2"]),
            category=rng.choice(["toys", "phones"]),
            price=rng.choice([None, 5.0, 80.0]),
            currency="EUR",
        )
        events.append(lambda state, one=upload: state.observe_submission(one))  # type: ignore[misc]
        of = f"u{rng.randrange(num)}"
        known = START + timedelta(days=rng.uniform(0, 120))
        truth = GroundTruth(
            submission_id=of,
            policy=rng.choice(["p", "q"]),
            violates=rng.random() < 0.5,
            source=rng.choice([TruthSource.REVIEW, TruthSource.APPEAL]),
            reviewed_at=known,
            known_at=known,
        )
        events.append(lambda state, one=truth: state.observe_truth(one))  # type: ignore[misc]
        report = Report(report_id=f"r{number}", submission_id=of, reported_at=known)
        events.append(lambda state, one=report: state.observe_report(one))  # type: ignore[misc]
        appeal = Appeal(
            appeal_id=f"a{number}",
            submission_id=of,
            opened_at=known,
            resolved_at=known,
            overturned=rng.random() < 0.5,
        )
        events.append(lambda state, one=appeal: state.observe_appeal(one))  # type: ignore[misc]
    return events


def _all_rows(state: ActivityState) -> list[bytes | float | None]:
    places = [(kind, f"{kind[0]}{n}") for kind in (RowKind.DEVICE, RowKind.ADDRESS) for n in (1, 2)]
    sellers = [(RowKind.SELLER, f"s{n}") for n in (1, 2, 3)]
    prices = [(RowKind.PRICE, f"{category}|EUR") for category in ("toys", "phones")]
    return [state.value_of(*one) for one in (*sellers, *places, *prices)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 40))
def test_late_repeated_and_shuffled_events_end_in_the_same_rows(seed: int, num: int) -> None:
    rng = Random(seed)
    events = _drawn_events(rng, num)
    shuffled = [*events, *rng.sample(events, len(events) // 2)]
    rng.shuffle(shuffled)
    in_order, out_of_order = ActivityState(), ActivityState()
    for event in events:
        event(in_order)
    for event in shuffled:
        event(out_of_order)
    assert _all_rows(in_order) == _all_rows(out_of_order)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 40), days=st.floats(0, 300))
def test_rows_read_back_give_the_same_behaviour_at_every_instant(
    seed: int, num: int, days: float
) -> None:
    state = ActivityState()
    for event in _drawn_events(Random(seed), num):
        event(state)
    asked = _submission(
        num,
        START + timedelta(days=days),
        device_fingerprint="d1",
        address_fingerprint="a2",
        category="toys",
        price=7.0,
        currency="EUR",
    )
    keys = Keys.of(asked)
    stored = {kind: state.value_of(kind, keys[kind] or "") for kind in RowKind}
    again = Rows.of(stored)
    np.testing.assert_array_equal(behaviour(asked, again), state.features(asked)[0])


def test_a_row_stays_small_however_much_a_seller_does() -> None:
    state = ActivityState()
    for number in range(3 * MAX_RECENT):
        at = START + timedelta(seconds=number)
        state.observe_submission(_submission(number, at, device_fingerprint=f"d{number}"))
    row = state.rows(Keys("s1", None, None, None)).seller
    assert row is not None
    assert len(row.recent) == MAX_RECENT
    assert len(row.devices) == MAX_PLACES
    asked = _submission(-1, START + timedelta(seconds=number + 1))
    found = dict(zip(FEATURE_NAMES, state.features(asked)[0].tolist(), strict=True))
    assert found["submissions_24h"] == MAX_RECENT
    assert found["submissions_30d"] == 3 * MAX_RECENT
    assert len(row.encode()) < 70_000


@pytest.mark.parametrize(
    "data",
    [b"", b"1234", bytes(8), (2).to_bytes(8, "little"), SellerActivity(5, 5).encode()[:-8]],
    ids=["empty", "no numbers", "version 0", "version 2", "cut off"],
)
def test_bytes_that_are_no_row_are_refused(data: bytes) -> None:
    with pytest.raises(ActivityRowError, match="row of activity"):
        SellerActivity.decode(data)


def test_a_row_of_another_kind_is_refused() -> None:
    with pytest.raises(ActivityRowError, match="break off"):
        SellerActivity.decode(PlaceActivity({1: 2}).encode())
