"""Gaps between rates: sizes from the literature, honest intervals for groups and small samples, discoveries."""

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose

from moderation.gates.gaps import (
    Discoveries,
    Gaps,
    LargestGap,
    gaps_of,
    rows_to_certify,
    rows_to_see,
)

Floats = npt.NDArray[np.float64]


def _clustered(
    rng: np.random.Generator, num: int, rate: float, *, size: int = 1, alike: float = 0.0
) -> npt.NDArray[np.bool_]:
    """Return outcomes in groups of `size` whose correlation is `alike`."""
    common = (rng.random(num) < rate)[np.arange(num) // size]
    return np.where(rng.random(num) < np.sqrt(alike), common, rng.random(num) < rate)


def _one_gap(hit_R: npt.NDArray[np.bool_], inside: int, size: int = 1) -> Gaps:
    inside_VR = np.arange(len(hit_R))[None] < inside
    group_R = np.where(inside_VR[0], np.arange(len(hit_R)) // size, 10**6 + np.arange(len(hit_R)))
    return gaps_of(hit_R, inside_VR, np.zeros(len(hit_R), np.int64), group_R)


def test_rows_are_those_of_the_method() -> None:
    assert rows_to_see(0.8, 0.7) == pytest.approx(293, abs=1)
    assert rows_to_see(0.001, 0.002) == pytest.approx(23_500, rel=0.001)
    assert rows_to_certify(0.05, 0.8, sides=1) == pytest.approx(790, abs=2)
    assert rows_to_see(0.8, 0.58) == pytest.approx(67, abs=2)


def test_gap_is_the_difference_of_rates() -> None:
    hit_R = np.array([True] * 30 + [False] * 10 + [True] * 20 + [False] * 40)
    gaps = _one_gap(hit_R, 40)
    assert_allclose([gaps.rate_V[0], gaps.other_rate_V[0], gaps.value_V[0]], [0.75, 1 / 3, 5 / 12])


def test_gap_vanishes_when_only_the_mix_of_strata_differs() -> None:
    stratum_R = np.repeat([0, 1, 0, 1], [20, 80, 160, 40])
    hit_R = np.zeros(300, bool)
    for begin, end, rate in ((0, 20, 0.9), (20, 100, 0.5), (100, 260, 0.9), (260, 300, 0.5)):
        hit_R[begin : begin + round((end - begin) * rate)] = True
    inside_VR = np.arange(300)[None] < 100
    plain = gaps_of(hit_R, inside_VR, np.zeros(300, np.int64), np.arange(300))
    assert plain.value_V[0] == pytest.approx(0.58 - 0.82)
    stratified = gaps_of(hit_R, inside_VR, stratum_R, np.arange(300))
    assert stratified.value_V[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("inside", "rates", "size", "alike"),
    [
        (60, (0.75, 0.75), 1, 0.0),
        (60, (0.9, 0.75), 3, 0.5),
        (20, (0.8, 0.8), 1, 0.0),
        (100, (0.12, 0.02), 3, 0.5),
        (200, (0.6, 0.75), 20, 1.0),
    ],
)
def test_bounds_hold_when_groups_are_alike(
    inside: int, rates: tuple[float, float], size: int, alike: float
) -> None:
    rng = np.random.default_rng(7)
    missed = np.zeros(2)
    for _ in range(400):
        mine = _clustered(rng, inside, rates[0], size=size, alike=alike)
        gaps = _one_gap(np.concatenate([mine, _clustered(rng, 300, rates[1])]), inside, size)
        low, high = gaps.centre_V[0] + np.array([-1, 1]) * gaps.reach(0.95)[0]
        missed += np.array([low > rates[0] - rates[1], high < rates[0] - rates[1]])
    assert missed.max() / 400 <= 0.075  # 5 %, and two standard errors of the simulation


def test_bound_stays_open_when_nothing_was_hit() -> None:
    gaps = _one_gap(np.zeros(400, bool), 60, size=20)
    assert gaps.value_V[0] == 0
    assert LargestGap(gaps).high(0.95) > 0.3  # three campaigns without a hit say little


def test_gap_is_unknown_when_a_subset_is_empty() -> None:
    gaps = _one_gap(np.ones(50, bool), 0)
    assert np.isnan(gaps.value_V[0])
    assert LargestGap(gaps).high(0.95) == np.inf
    assert gaps.p_values(0.0, 1)[0] == 1.0


def test_gap_is_unbounded_when_one_group_is_all_there_is() -> None:
    gaps = _one_gap(np.arange(400) % 2 == 0, 60, size=60)
    assert gaps.value_V[0] == 0
    assert LargestGap(gaps).high(0.95) == np.inf
    assert LargestGap(gaps).low(0.95) == 0


def test_largest_of_many_equal_rates_is_not_shown() -> None:
    rng = np.random.default_rng(3)
    shown = 0
    for _ in range(200):
        value_R = rng.integers(0, 20, 2_000)
        hit_R = rng.random(2_000) < 0.8
        gaps = gaps_of(
            hit_R, value_R == np.arange(20)[:, None], np.zeros(2_000, np.int64), np.arange(2_000)
        )
        largest = LargestGap(gaps)
        assert largest.value > 0.03  # the largest observed one always is
        shown += largest.low(0.95) > 0
    assert shown / 200 <= 0.1  # 5 %, three standard errors of the simulation


def test_discoveries_are_rarely_false_when_many_are_looked_at() -> None:
    rng = np.random.default_rng(5)
    shares = []
    for _ in range(300):
        p_H = np.concatenate([rng.random(180), rng.random(20) * 1e-4])
        found = Discoveries(p_H, 0.05).found(0.05)
        shares.append((found < 180).sum() / max(len(found), 1))
    assert np.mean(shares) <= 0.06


def test_discoveries_need_more_when_the_level_is_stricter() -> None:
    spread = Discoveries(np.array([0.004, 0.5, 0.9]), 0.05)
    assert (spread.value, spread.low(0.95), spread.low(0.9999), spread.high(0.9999)) == (1, 1, 0, 1)


def test_no_discovery_when_nothing_is_looked_at() -> None:
    assert Discoveries(np.array([]), 0.05).value == 0
