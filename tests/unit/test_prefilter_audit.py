"""What the prefilter misses is estimated from what a known chance sent on all the same."""

from collections.abc import Callable

import numpy as np
import pytest

from moderation.errors import InvalidSnapshot
from moderation.prefilter_audit import Misses, Reviewed, estimate_misses, random_draw

CONFIDENCE = 0.95


def _reviewed(rng: np.random.Generator, miss_rate: float, share: float = 0.1) -> Reviewed:
    """Return what is known of 40,000 uploads of which 3 % violate, in pairs of one seller."""
    num = 40_000
    group = np.arange(num) // 2
    violates = np.repeat(rng.random(num // 2) < 0.03, 2)
    is_below = np.where(
        violates, np.repeat(rng.random(num // 2) < miss_rate, 2), rng.random(num) < 0.4
    )
    propensity = np.where(rng.random(num) < 0.5, 0.9, 0.3)
    goes_on = ~is_below | (rng.random(num) < share)
    seen = goes_on & (rng.random(num) < propensity)
    return Reviewed(
        violates[seen], is_below[seen], np.full(seen.sum(), share), propensity[seen], group[seen]
    )


def _estimates(miss_rate: float, num: int = 40) -> list[Misses]:
    rng = np.random.default_rng(5)
    return [estimate_misses(_reviewed(rng, miss_rate), CONFIDENCE) for _ in range(num)]


def test_the_estimate_is_right_on_average_and_its_bounds_hold() -> None:
    found = _estimates(0.03)
    assert np.mean([one.rate for one in found]) == pytest.approx(0.03, rel=0.15)
    assert np.mean([one.violations for one in found]) == pytest.approx(1_200, rel=0.05)
    assert (
        sum(one.upper < 0.03 for one in found) <= 5
    )  # of 40 at 5 %: more, once in a hundred times
    assert sum(one.lower > 0.03 for one in found) <= 5


def test_nothing_missed_is_never_shown_by_a_small_draw() -> None:
    found = _estimates(0.0, num=5)
    assert all((one.rate, one.lower) == (0.0, 0.0) and 0 < one.upper < 0.1 for one in found)


def test_a_wide_open_prefilter_is_found_out() -> None:
    assert all(one.lower > 0.2 for one in _estimates(0.5, num=5))


def test_rare_draws_weigh_as_much_as_they_stand_for() -> None:
    ones = np.ones(4)
    reviewed = Reviewed(
        np.array([True, True, True, False]),
        np.array([True, False, False, True]),
        ones * 0.01,
        ones,
        np.arange(4),
    )
    found = estimate_misses(reviewed, CONFIDENCE)
    assert found.seen_below == 1
    assert found.below == pytest.approx(100)
    assert found.violations == pytest.approx(102)


def test_without_a_known_violation_nothing_is_estimated() -> None:
    none = Reviewed(np.zeros(2, bool), np.zeros(2, bool), np.ones(2), np.ones(2), np.arange(2))
    with pytest.raises(InvalidSnapshot, match="no reviewed upload violates"):
        estimate_misses(none, CONFIDENCE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Reviewed(np.ones(1, bool), np.ones(1, bool), np.zeros(1), np.ones(1), np.arange(1)),
        lambda: Reviewed(
            np.ones(1, bool), np.ones(1, bool), np.ones(1), np.full(1, 1.2), np.arange(1)
        ),
        lambda: Reviewed(np.ones(2, bool), np.ones(1, bool), np.ones(1), np.ones(1), np.arange(1)),
    ],
)
def test_chances_that_are_none_are_refused(make: Callable[[], Reviewed]) -> None:
    with pytest.raises(InvalidSnapshot, match="reviewed uploads"):
        make()


def test_the_draw_is_fixed_by_submission_and_salt_and_even() -> None:
    draws = np.array([random_draw(f"s{number}", "salt") for number in range(20_000)])
    assert random_draw("s1", "salt") == draws[1]
    assert random_draw("s1", "other") != draws[1]
    assert 0 <= draws.min() < draws.max() < 1
    assert (draws < 0.01).mean() == pytest.approx(0.01, abs=0.003)
