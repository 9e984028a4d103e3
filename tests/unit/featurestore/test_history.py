"""Training reads what was known just before an upload: all rows, in order, and nothing from the future."""

import resource
from datetime import timedelta
from random import Random

import numpy as np
import pandas as pd
import pytest
from feast import FeatureStore

from featurestore.definitions import BEHAVIOUR
from featurestore.history import ActivityRow, append_activity, behaviour_at
from featurestore.layout import FeaturesNotReady, Place
from featurestore.quiet import quiet_feast
from featurestore.repository import apply, open_store
from featurestore.stream import FeatureStream
from ledger.activity import FOLDED, to_record
from ledger.events import (
    EventKind,
    from_ground_truth,
    from_reversal,
    from_submission,
    to_submission,
)
from ledger.ledger import SqliteLedger
from moderation.activity import ActivityState
from moderation.activity_rows import DAY_US, RowKind, SellerActivity, to_us
from moderation.behaviour import Keys
from moderation.clock import SimulatedClock
from moderation.features import FEATURE_NAMES
from moderation.listing import GroundTruth, Reversal, ReversalReason, TruthSource
from tests.feature_events import START, drawn_events, drawn_upload, upload

DAY = timedelta(days=1)


def _violations(behaviour_NF: np.ndarray) -> list[float]:
    column = FEATURE_NAMES.index("violations_90d")
    return [float(value) for value in behaviour_NF[:, column]]


def _row(known_violations: int, hours: float, known_after_hours: float) -> ActivityRow:
    """Return a seller's row that says so many violations, of one instant and known at another."""
    first_us = to_us(START)
    row = SellerActivity(first_us, first_us, violations={first_us // DAY_US: known_violations})
    at, known = START + timedelta(hours=hours), START + timedelta(hours=known_after_hours)
    return ActivityRow(RowKind.SELLER, "s1", row.encode(), at, known)


def test_all_rows_come_back_in_the_order_they_were_asked_for(
    store: FeatureStore, place: Place
) -> None:
    append_activity(place.folder, "one", [_row(2, 1, 1)])
    asked = [
        upload("late", START + 300 * DAY),
        upload("early", START - DAY),
        upload("stranger", START + DAY, seller_id="nobody"),
        upload("known", START + DAY),
        upload("known", START + DAY),
        upload("unnamed", START + DAY, seller_id=None),
    ]
    found = behaviour_at(place.folder, asked)
    assert found.shape == (6, len(FEATURE_NAMES))
    expected = [0, 0, 0, 2, 2, np.nan]
    np.testing.assert_array_equal(_violations(found), expected)


def test_what_became_known_later_never_reaches_a_snapshot(
    store: FeatureStore, place: Place
) -> None:
    """A planted leak: a correction that carries an old event time, but was known only after the upload."""
    append_activity(place.folder, "honest", [_row(1, 1, 1)])
    append_activity(place.folder, "planted", [_row(50, 2, 100)])
    asked = [upload("u9", START + timedelta(hours=10)), upload("u10", START + 10 * DAY)]
    assert _violations(behaviour_at(place.folder, asked)) == [1, 50]
    leaking = behaviour_at(place.folder, asked, is_known_only=False)
    assert _violations(leaking) == [50, 50], "the planted row leaks once the filter is gone"


def test_a_reversal_counts_from_when_it_was_known(
    place: Place, stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    """A snapshot of the past keeps the violation that was believed in then."""
    stream.step()
    truth = GroundTruth(
        submission_id="u1",
        policy="p",
        violates=True,
        source=TruthSource.REVIEW,
        reviewed_at=START + DAY,
        known_at=START + DAY,
    )
    reversal = Reversal(
        reversal_id="r1",
        submission_id="u1",
        reason=ReversalReason.POLICY_ERROR,
        reversed_at=START + 2 * DAY,
        known_at=START + 5 * DAY,
    )
    ledger.append([from_submission(upload("u1", START), recorded_at=START)])
    for event in (
        from_ground_truth(truth, recorded_at=truth.known_at),
        from_reversal(reversal, recorded_at=reversal.known_at),
    ):
        ledger.append([event])
        clock.move_to(event.recorded_at)
        stream.step()
    asked = [upload(f"q{days}", START + days * DAY / 2) for days in (1, 3, 9, 11)]
    assert _violations(behaviour_at(place.folder, asked)) == [0, 1, 1, 0]


def test_an_upload_does_not_see_itself_or_what_comes_at_its_instant(
    store: FeatureStore, place: Place
) -> None:
    append_activity(place.folder, "same instant", [_row(7, 5, 5)])
    asked = [upload("u9", START + timedelta(hours=5))]
    assert _violations(behaviour_at(place.folder, asked)) == [0]


def test_history_gives_what_the_fold_gave(
    place: Place, stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    """The training table from Feast equals the fold of the ledger, row by row and bit by bit."""
    rng = Random(3)
    events = drawn_events(rng, 600)
    ledger.append(events)
    clock.move_to(clock.now() + 400 * DAY)
    stream.step()
    state, asked, expected = ActivityState(), [], []
    for stored in ledger.read(FOLDED, in_time_order=True):
        if stored.event.kind is EventKind.SUBMISSION:
            asked.append(to_submission(stored.event))
            expected.append(state.features(asked[-1])[0])
        state.observe(to_record(stored.event))
    np.testing.assert_array_equal(behaviour_at(place.folder, asked), np.stack(expected))


def test_an_empty_history_answers_with_new_sellers(store: FeatureStore, place: Place) -> None:
    assert behaviour_at(place.folder, []).shape == (0, len(FEATURE_NAMES))
    assert _violations(behaviour_at(place.folder, [upload("u1", START)])) == [0]


def test_a_home_without_a_store_says_what_to_do(place: Place) -> None:
    with pytest.raises(FeaturesNotReady, match="tidegate features apply"):
        open_store(place)
    apply(place)
    open_store(place)
    with pytest.raises(FeaturesNotReady, match="another online store"):
        open_store(Place(place.folder, "redis://localhost:6379/0"))


def test_applying_again_keeps_what_is_there(store: FeatureStore, place: Place) -> None:
    append_activity(place.folder, "one", [_row(2, 1, 1)])
    apply(place)
    assert _violations(behaviour_at(place.folder, [upload("u9", START + DAY)])) == [2]


def test_the_join_is_feasts_own(
    store: FeatureStore,
    place: Place,
    stream: FeatureStream,
    ledger: SqliteLedger,
    clock: SimulatedClock,
) -> None:
    """Feast's point-in-time join over the same files, with its filter of what was known, says the same."""
    ledger.append(drawn_events(Random(8), 80, days=20))
    clock.move_to(START + 100 * DAY)
    stream.step()
    append_activity(place.folder, "planted", [_row(50, 200, 5_000)])
    asked = [drawn_upload(Random(n), f"q{n}", START + n * DAY / 2) for n in range(50)]
    keys = [Keys.of(one) for one in asked]
    entities = pd.DataFrame(
        {
            "row": np.arange(len(asked)),
            "event_timestamp": pd.to_datetime(
                [one.submitted_at - timedelta(microseconds=1) for one in asked]
            ).astype("datetime64[us, UTC]"),
            "submission": [one.model_dump_json() for one in asked],
            **{kind.join_key: [one[kind] or "" for one in keys] for kind in RowKind},
        }
    )
    with quiet_feast():
        theirs = store.get_historical_features(
            entity_df=entities,
            features=store.get_feature_service(BEHAVIOUR),
            filter_by_created_timestamp=True,
        ).to_df()
    theirs_NF = theirs.sort_values("row")[list(FEATURE_NAMES)].to_numpy(np.float32)
    np.testing.assert_array_equal(behaviour_at(place.folder, asked), theirs_NF)


def test_a_busy_seller_costs_as_much_as_many_quiet_ones(
    place: Place, stream: FeatureStream, ledger: SqliteLedger, clock: SimulatedClock
) -> None:
    """1,500 uploads of one seller from ever new devices: pairs of versions and uploads would be two million."""
    uploads = [
        upload(f"u{n}", START + n * timedelta(minutes=7), device_fingerprint=f"d{n}")
        for n in range(1_500)
    ]
    ledger.append([from_submission(one, recorded_at=one.submitted_at) for one in uploads])
    clock.move_to(START + 20 * DAY)
    stream.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = behaviour_at(place.folder, uploads)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found[-1, FEATURE_NAMES.index("submissions_30d")] == 1_499
    assert grown_mb < 1_500
