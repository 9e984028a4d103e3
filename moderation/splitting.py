"""Roles, folds and groups of a training table: by time, grouped by seller and campaign, so that nothing leaks.

A row's role says what it may be used for: `train` fits the members, `tune` chooses hyperparameters, `meta` fits the
meta-learner and calibration, `solve` solves thresholds, `test` is only reported. In `time` mode roles follow event
time. In `declared` mode the data names its own train / test split (or has no times at all): folds over the train rows
then serve for tuning, stacking and thresholds out of fold.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Mode = Literal["time", "declared"]
ROLES: Final = ("train", "tune", "meta", "solve", "test")
_FRACTIONS: Final = (0.5, 0.1, 0.1, 0.1, 0.2)
NUM_TIME_FOLDS: Final = 4
NUM_DECLARED_FOLDS: Final = 5

# A device or an address shared by more sellers than this is a library or a phone shop, not a campaign.
_MAX_LINKED: Final = 50


@dataclass(frozen=True)
class Split:
    """The outcome for N rows; `keep_N` is False where a row is purged."""

    role_N: npt.NDArray[np.str_]
    fold_N: npt.NDArray[np.int8]
    weight_N: npt.NDArray[np.float64]
    keep_N: npt.NDArray[np.bool_]


def group_rows(keys: Sequence[Iterable[tuple[str, str]]]) -> npt.NDArray[np.int64]:
    """Return the group of each row: rows that share a linking key belong together, also over several steps.

    Args:
        keys: per row, pairs of (kind, value), such as ("seller", "s1") or ("device", "d7"); a row without a key is
            a group of its own. The first pair of a row counts as its seller when shared places are too common.

    Returns:
        group_N, int64, numbered by first appearance.

    >>> group_rows([[("seller", "a")], [("seller", "b"), ("device", "x")], [("seller", "a")], []]).tolist()
    [0, 1, 0, 2]
    """
    users: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    rows = [list(pairs) for pairs in keys]
    for pairs in rows:
        for pair in pairs:
            users[pair].add(pairs[0][1])
    parent = list(range(len(rows)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[tuple[str, str], int] = {}
    for row, pairs in enumerate(rows):
        for pair in pairs:
            if len(users[pair]) <= _MAX_LINKED:
                other = root(first.setdefault(pair, row))
                mine = root(row)
                parent[max(mine, other)] = min(mine, other)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(root(r), len(numbers)) for r in range(len(rows))], np.int64)


def split_by_time(
    time_N: npt.NDArray[np.int64],
    group_N: npt.NDArray[np.int64],
    weight_N: npt.NDArray[np.float64],
    stratum_N: Sequence[object],
) -> Split:
    """Return roles by event time, purged so that no group serves two roles before `test`.

    A group belongs to the first role that it appears in; its rows in a later role before `test` are purged, and
    their weight goes to the rows of the same role and truth, so that prevalence stays what it was. Test rows are
    never purged: sellers that were seen before are part of life and are reported apart. Train rows are cut into
    forward-chaining blocks the same way; a row whose group began in an earlier block gets fold -1 (it trains, and is
    never scored out of fold).

    Args:
        time_N: event time, any integer unit; ties keep their order.
        group_N: from `group_rows`.
        weight_N: inverse inclusion probability.
        stratum_N: the truth of each row, hashable; weight moves only inside one stratum.
    """
    num_rows = len(time_N)
    order = np.argsort(time_N, kind="stable")
    rank_N = np.empty(num_rows, np.int64)
    rank_N[order] = np.arange(num_rows)
    bounds = np.round(np.cumsum(_FRACTIONS) * num_rows).astype(np.int64)
    place_N = np.searchsorted(bounds, rank_N, side="right").clip(0, len(ROLES) - 1)
    role_N = np.array(ROLES)[place_N]
    first_place = _first_of_group(place_N, group_N)
    keep_N = (role_N == "test") | (place_N == first_place)
    keep_N |= ~_has_survivor(place_N, stratum_N, keep_N)
    weight_N = _reweigh(weight_N, place_N, stratum_N, keep_N)
    fold_N = np.full(num_rows, -1, np.int8)
    train = np.flatnonzero((role_N == "train") & keep_N)
    block = rank_N[train] * NUM_TIME_FOLDS // max(int(bounds[0]), 1)
    block = block.clip(0, NUM_TIME_FOLDS - 1)
    begins = _first_of_group(block, group_N[train])
    fold_N[train] = np.where(block == begins, block, -1)
    return Split(role_N, fold_N, weight_N, keep_N)


def split_as_declared(
    is_test_N: npt.NDArray[np.bool_],
    group_N: npt.NDArray[np.int64],
    weight_N: npt.NDArray[np.float64],
    positive_N: npt.NDArray[np.bool_],
) -> Split:
    """Return the data's own split, with grouped folds over its train rows.

    Groups go to folds greedily, the largest first, each to the fold with the fewest positives, then the fewest rows,
    so that every fold can be scored.
    """
    fold_N = np.full(len(is_test_N), -1, np.int8)
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~is_test_N):
        rows_of[int(group_N[row])].append(int(row))
    load = [(0, 0, fold) for fold in range(NUM_DECLARED_FOLDS)]
    ordered = sorted(
        rows_of.items(),
        key=lambda item: (-int(positive_N[item[1]].sum()), -len(item[1]), _stable(item[0])),
    )
    for _, rows in ordered:
        num_positives = int(positive_N[rows].sum())
        # A group without positives balances rows; one with positives balances positives.
        load.sort(key=lambda e: (e[0], e[1], e[2]) if num_positives else (e[1], e[0], e[2]))
        positives, size, fold = load[0]
        load[0] = (positives + num_positives, size + len(rows), fold)
        fold_N[rows] = fold
    role_N = np.where(is_test_N, "test", "train")
    return Split(role_N, fold_N, weight_N.copy(), np.ones(len(is_test_N), bool))


def hashed_test_rows(group_N: npt.NDArray[np.int64], share: float = 0.2) -> npt.NDArray[np.bool_]:
    """Return a stable grouped choice of test rows, for data that has neither times nor a split."""
    limit = int(share * 2**32)
    return np.array([_stable(int(group)) < limit for group in group_N], bool)


def mark_seen(
    values_N: Sequence[Mapping[str, str]], role_N: npt.NDArray[np.str_], keys: Iterable[str]
) -> list[dict[str, str]]:
    """Return per row, for test rows, whether each attribute's value occurs before the test: `seen` or `unseen`."""
    known = {
        key: {
            v[key] for v, role in zip(values_N, role_N, strict=True) if role != "test" and key in v
        }
        for key in keys
    }
    return [
        {
            f"{key}_seen": "seen" if values[key] in known[key] else "unseen"
            for key in known
            if key in values
        }
        if role == "test"
        else {}
        for values, role in zip(values_N, role_N, strict=True)
    ]


def _first_of_group(
    place_N: npt.NDArray[np.int64], group_N: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Return, per row, the smallest place that its group appears in."""
    if not len(group_N):
        return place_N.copy()
    first = np.full(int(group_N.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, group_N, place_N)
    return first[group_N]


def _has_survivor(
    place_N: npt.NDArray[np.int64], stratum_N: Sequence[object], keep_N: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Return, per row, whether its role still holds a row of the same truth; a stratum is never emptied."""
    kept = Counter((int(p), s) for p, s, k in zip(place_N, stratum_N, keep_N, strict=True) if k)
    return np.array([kept[int(p), s] > 0 for p, s in zip(place_N, stratum_N, strict=True)], bool)


def _reweigh(
    weight_N: npt.NDArray[np.float64],
    place_N: npt.NDArray[np.int64],
    stratum_N: Sequence[object],
    keep_N: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return weights in which the kept rows of a role and truth stand for the purged ones too."""
    whole: defaultdict[tuple[int, object], float] = defaultdict(float)
    kept: defaultdict[tuple[int, object], float] = defaultdict(float)
    cells = [(int(p), s) for p, s in zip(place_N, stratum_N, strict=True)]
    for cell, weight, keep in zip(cells, weight_N, keep_N, strict=True):
        whole[cell] += weight
        kept[cell] += weight * keep
    factor = [
        whole[cell] / kept[cell] if keep else 0.0 for cell, keep in zip(cells, keep_N, strict=True)
    ]
    return weight_N * np.array(factor, np.float64)


def _stable(number: int) -> int:
    """Return 32 bits that depend on `number` alone, in every process."""
    return int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4], "big")
