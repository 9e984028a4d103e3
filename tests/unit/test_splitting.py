"""Roles, folds and groups: by time, grouped, and true to the weighted prevalence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.splitting import (
    NUM_DECLARED_FOLDS,
    group_rows,
    hashed_test_rows,
    mark_seen,
    split_as_declared,
    split_by_time,
)


def _world(num_rows: int, num_groups: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.arange(num_rows), rng.integers(0, num_groups, num_rows)


def test_groups_join_over_shared_device() -> None:
    keys = [
        [("seller", "a"), ("device", "x")],
        [("seller", "b"), ("device", "x"), ("address", "y")],
        [("seller", "c"), ("address", "y")],
        [("seller", "d")],
    ]
    assert group_rows(keys).tolist() == [0, 0, 0, 1]


def test_groups_ignore_a_place_that_everybody_uses() -> None:
    keys = [[("seller", f"s{i}"), ("device", "library")] for i in range(60)]
    assert len(set(group_rows(keys).tolist())) == 60


def test_roles_follow_time_in_their_shares() -> None:
    time_N, _ = _world(1_000, 10)
    split = split_by_time(time_N, np.arange(1_000), np.ones(1_000), [0] * 1_000)
    counts = {role: int((split.role_N == role).sum()) for role in set(split.role_N.tolist())}
    assert counts == {"train": 500, "tune": 100, "meta": 100, "solve": 100, "test": 200}
    assert split.role_N[0] == "train"
    assert split.role_N[-1] == "test"


def test_no_group_serves_two_roles_before_test() -> None:
    time_N, group_N = _world(4_000, 1_500)
    split = split_by_time(time_N, group_N, np.ones(4_000), [0] * 4_000)
    kept = split.keep_N & (split.role_N != "test")
    roles: dict[int, set[str]] = {}
    for group, role in zip(group_N[kept], split.role_N[kept], strict=True):
        roles.setdefault(int(group), set()).add(str(role))
    assert max(len(found) for found in roles.values()) == 1
    assert split.keep_N[split.role_N == "test"].all()


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 400), st.integers(1, 60), st.integers(0, 10_000))
def test_purging_keeps_weight_per_role_and_truth(rows: int, groups: int, seed: int) -> None:
    time_N, group_N = _world(rows, groups, seed)
    rng = np.random.default_rng(seed)
    truth = [int(x) for x in rng.integers(0, 2, rows)]
    weight_N = rng.uniform(1, 50, rows)
    split = split_by_time(time_N, group_N, weight_N, truth)
    for role in set(split.role_N.tolist()):
        for value in (0, 1):
            cell = (split.role_N == role) & (np.array(truth) == value)
            kept = cell & split.keep_N
            if kept.any():
                assert split.weight_N[kept].sum() == pytest.approx(weight_N[cell].sum())


def test_every_role_keeps_its_share_of_old_sellers() -> None:
    rng = np.random.default_rng(2)
    num_rows = 20_000
    is_old_N = rng.random(num_rows) < 0.8
    group_N = np.where(is_old_N, rng.integers(0, 2_000, num_rows), 2_000 + np.arange(num_rows))
    split = split_by_time(np.arange(num_rows), group_N, np.ones(num_rows), [0] * num_rows)
    for role in ("train", "tune", "meta", "solve", "test"):
        kept = (split.role_N == role) & split.keep_N
        share = split.weight_N[kept & is_old_N].sum() / split.weight_N[kept].sum()
        assert 0.74 < share < 0.86, role


def test_copies_leave_before_weights_are_settled() -> None:
    truth = [int(n % 4 == 0) for n in range(1_000)]
    copy_N = np.array([bool(value) and n < 600 for n, value in enumerate(truth)]) & (
        np.arange(1_000) % 8 == 0
    )
    split = split_by_time(np.arange(1_000), np.arange(1_000), np.ones(1_000), truth, copy_N=copy_N)
    assert not split.keep_N[copy_N].any()
    kept = (split.role_N == "train") & split.keep_N
    right = split.weight_N[kept & (np.array(truth) == 1)].sum()
    assert right / split.weight_N[kept].sum() == pytest.approx(0.25)


def test_folds_hold_each_group_once() -> None:
    time_N, group_N = _world(2_000, 700)
    split = split_by_time(time_N, group_N, np.ones(2_000), [0] * 2_000)
    folds: dict[int, set[int]] = {}
    for group, fold in zip(group_N, split.fold_N, strict=True):
        if fold >= 0:
            folds.setdefault(int(group), set()).add(int(fold))
    assert max(len(found) for found in folds.values()) == 1
    assert set(split.fold_N.tolist()) == {-1, 0, 1, 2, 3}
    assert (split.fold_N[split.role_N != "train"] == -1).all()


def test_declared_split_balances_positives_over_folds() -> None:
    rng = np.random.default_rng(1)
    is_test_N, positive_N = rng.random(900) < 0.3, rng.random(900) < 0.1
    truth = [(int(value),) for value in positive_N]
    split = split_as_declared(is_test_N, np.arange(900), np.ones(900), truth)
    assert (split.role_N == "test").tolist() == is_test_N.tolist()
    positives = [int(positive_N[split.fold_N == fold].sum()) for fold in range(NUM_DECLARED_FOLDS)]
    sizes = [int((split.fold_N == fold).sum()) for fold in range(NUM_DECLARED_FOLDS)]
    assert max(positives) - min(positives) <= 1
    assert max(sizes) - min(sizes) <= 2


def test_hashed_test_rows_keep_groups_whole() -> None:
    group_N = np.repeat(np.arange(500), 3)
    chosen = hashed_test_rows(group_N).reshape(500, 3)
    assert (chosen.any(axis=1) == chosen.all(axis=1)).all()
    assert 0.12 < chosen.mean() < 0.28


def test_seen_marks_only_test_rows() -> None:
    values = [{"asset": "a"}, {"asset": "a"}, {"asset": "b"}, {}]
    roles = np.array(["train", "test", "test", "test"])
    assert mark_seen(values, roles, ["asset"]) == [
        {},
        {"asset_seen": "seen"},
        {"asset_seen": "unseen"},
        {},
    ]
