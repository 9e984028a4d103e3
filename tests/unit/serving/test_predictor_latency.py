import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.predictor.latency import LatencyModel


def test_line_is_found_when_sizes_vary() -> None:
    rng, model = Random(3), LatencyModel()
    for _ in range(400):
        passes = rng.randint(1, 40)
        model.learn(passes, (0.004 + 0.0005 * passes) * rng.uniform(0.9, 1.1))
    assert model.fixed_s == pytest.approx(0.004, rel=0.25)
    assert model.pass_s == pytest.approx(0.0005, rel=0.15)
    assert model.seconds(16) < model.bound_s(16) < 1.3 * model.seconds(16)


def test_split_is_kept_when_all_sizes_are_alike() -> None:
    model = LatencyModel()
    for passes in (1, 2, 4, 8, 16):
        model.learn(passes, 0.01 + 0.001 * passes)
    for _ in range(500):
        model.learn(8, 2 * (0.01 + 0.001 * 8))
    assert model.seconds(8) == pytest.approx(0.036, rel=0.02)
    assert model.fixed_s == pytest.approx(0.02, rel=0.1), "twice as slow, as before in proportion"


def test_slower_machine_is_noticed_within_a_hundred_batches() -> None:
    model = LatencyModel()
    for n in range(300):
        model.learn(1 + n % 8, 0.001 * (1 + n % 8))
    for n in range(100):
        model.learn(1 + n % 8, 0.003 * (1 + n % 8))
    assert model.seconds(8) > 0.018


def test_wrong_estimate_mends_when_it_refuses() -> None:
    model = LatencyModel()
    model.learn(1, 10.0)
    for _ in range(700):
        model.ease()
    assert model.seconds(1) < 0.01


@given(
    st.lists(
        st.tuples(st.integers(1, 600), st.floats(1e-6, 100, allow_nan=False)),
        min_size=1,
        max_size=60,
    )
)
def test_estimates_are_finite_and_never_negative(seen: list[tuple[int, float]]) -> None:
    model = LatencyModel()
    for passes, seconds in seen:
        model.learn(passes, seconds)
    values = [model.fixed_s, model.pass_s, model.seconds(7), model.bound_s(7), model.drain_s(9, 2)]
    assert all(math.isfinite(value) and value >= -1e-9 for value in values)


def test_nothing_is_expected_before_the_first_batch() -> None:
    assert (LatencyModel().seconds(10), LatencyModel().bound_s(10)) == (0, 0)
