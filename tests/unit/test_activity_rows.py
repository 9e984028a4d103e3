"""Rows of activity: the same from the same events in whatever order, and read back as they were written."""

from datetime import timedelta
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.activity import to_record
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
from tests.feature_events import START, drawn_events, upload


def _all_rows(state: ActivityState) -> list[bytes | float | None]:
    places = [(kind, f"{kind[0]}{n}") for kind in (RowKind.DEVICE, RowKind.ADDRESS) for n in (1, 2)]
    sellers = [(RowKind.SELLER, f"s{n}") for n in (1, 2, 3)]
    prices = [(RowKind.PRICE, f"{category}|EUR") for category in ("toys", "phones")]
    return [state.value_of(*one) for one in (*sellers, *places, *prices)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 40))
def test_late_repeated_and_shuffled_events_end_in_the_same_rows(seed: int, num: int) -> None:
    rng = Random(seed)
    events = drawn_events(rng, num)
    shuffled = [*events, *rng.sample(events, len(events) // 2)]
    rng.shuffle(shuffled)
    in_order, out_of_order = ActivityState(), ActivityState()
    for event in events:
        in_order.observe(to_record(event))
    for event in shuffled:
        out_of_order.observe(to_record(event))
    assert _all_rows(in_order) == _all_rows(out_of_order)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 40), days=st.floats(0, 300))
def test_rows_read_back_give_the_same_behaviour_at_every_instant(
    seed: int, num: int, days: float
) -> None:
    state = ActivityState()
    for event in drawn_events(Random(seed), num):
        state.observe(to_record(event))
    asked = upload(
        "q",
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
        state.observe_submission(upload(f"u{number}", at, device_fingerprint=f"d{number}"))
    row = state.rows(Keys("s1", None, None, None)).seller
    assert row is not None
    assert len(row.recent) == MAX_RECENT
    assert len(row.devices) == MAX_PLACES
    asked = upload("q", START + timedelta(seconds=number + 1))
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
