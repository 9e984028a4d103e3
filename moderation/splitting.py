"""Roles, folds and groups of a training table: by time, grouped by seller and campaign, so that nothing leaks.

A row's role says what it may be used for: `train` fits the members, `tune` chooses hyperparameters, `meta` fits the
meta-learner and calibration, `solve` solves thresholds, `test` is only reported. In `time` mode roles follow event
time. In `declared` mode the data names its own train / test split (or has no times at all): folds over the train rows
then serve for tuning, stacking and thresholds out of fold.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

Mode = Literal["time", "declared"]
ROLES: Final = ("train", "tune", "meta", "solve", "test")
_FRACTIONS: Final = (0.5, 0.1, 0.1, 0.1, 0.2)
# Chances of the roles for a group that appears in several: half to train, the small roles alike.
_CHANCES: Final = (0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3, 0.0)
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


def places_by_time(time_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the place in `ROLES` that the event time of each row falls into; ties keep their order."""
    rank_N = _ranks(time_N)
    bounds = np.round(np.cumsum(_FRACTIONS) * len(time_N)).astype(np.int64)
    return np.searchsorted(bounds, rank_N, side="right").clip(0, len(ROLES) - 1)


def split_by_time(
    time_N: npt.NDArray[np.int64],
    group_N: npt.NDArray[np.int64],
    weight_N: npt.NDArray[np.float64],
    stratum_N: Sequence[object],
    *,
    copy_N: npt.NDArray[np.bool_] | None = None,
) -> Split:
    """Return roles by event time, purged so that no group serves two roles before `test`.

    A group that appears in several roles before `test` is given to one of them by a hash, with known chances; its
    rows in the others are purged, and those that stay weigh the inverse of the chance. So every role keeps its share
    of long-standing sellers (giving each group to its first role would leave only newcomers to calibrate on). The
    weights of a role and truth are then scaled to their sum before the purge, so that prevalence stays what it was.
    Test rows are never purged: sellers that were seen before are part of life and are reported apart. Train rows are
    cut into forward-chaining blocks; a group is scored in one of its blocks, chosen the same way, and its other rows
    get fold -1 (they train the final members, and are neither scored nor fitted on out of fold).

    Args:
        time_N: event time, any integer unit.
        group_N: from `group_rows`.
        weight_N: inverse inclusion probability.
        stratum_N: the truth of each row, hashable; weight moves only inside one stratum.
        copy_N: rows to drop as copies; their weight goes the same way as that of purged ones.
    """
    place_N = places_by_time(time_N)
    role_N = np.array(ROLES)[place_N]
    is_test_N = role_N == "test"
    chosen_N, chance_N = _one_of_its_places(place_N, group_N, ~is_test_N, _CHANCES, "role")
    keep_N = is_test_N | (place_N == chosen_N)
    if copy_N is not None:
        keep_N &= ~copy_N
    drawn_N = np.where(is_test_N, weight_N, weight_N / chance_N)
    weight_N = _reweigh(weight_N, drawn_N, place_N, stratum_N, keep_N)
    fold_N = np.full(len(time_N), -1, np.int8)
    train = np.flatnonzero((role_N == "train") & keep_N)
    num_train = max(int((role_N == "train").sum()), 1)
    block = (_ranks(time_N)[train] * NUM_TIME_FOLDS // num_train).clip(0, NUM_TIME_FOLDS - 1)
    scored, _ = _one_of_its_places(
        block, group_N[train], np.ones(len(train), bool), (1.0,) * NUM_TIME_FOLDS, "fold"
    )
    fold_N[train] = np.where(block == scored, block, -1)
    return Split(role_N, fold_N, weight_N, keep_N)


def split_as_declared(
    is_test_N: npt.NDArray[np.bool_],
    group_N: npt.NDArray[np.int64],
    weight_N: npt.NDArray[np.float64],
    stratum_N: Sequence[tuple[int, ...]],
    *,
    copy_N: npt.NDArray[np.bool_] | None = None,
) -> Split:
    """Return the data's own split, with grouped folds over its train rows.

    Groups go to folds greedily, the largest first, each to the fold with the fewest positives, then the fewest rows,
    so that every fold can be scored. Rows in `copy_N` are dropped, their weight goes to their role and truth.
    """
    positive_N = np.array([1 in stratum for stratum in stratum_N], bool)
    keep_N = np.ones(len(is_test_N), bool) if copy_N is None else ~copy_N
    fold_N = np.full(len(is_test_N), -1, np.int8)
    rows_of: defaultdict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~is_test_N):
        rows_of[int(group_N[row])].append(int(row))
    load = [(0, 0, fold) for fold in range(NUM_DECLARED_FOLDS)]
    ordered = sorted(
        rows_of.items(),
        key=lambda item: (-int(positive_N[item[1]].sum()), -len(item[1]), _stable(item[0], "fold")),
    )
    for _, rows in ordered:
        num_positives = int(positive_N[rows].sum())
        # A group without positives balances rows; one with positives balances positives.
        load.sort(key=lambda e: (e[0], e[1], e[2]) if num_positives else (e[1], e[0], e[2]))
        positives, size, fold = load[0]
        load[0] = (positives + num_positives, size + len(rows), fold)
        fold_N[rows] = fold
    role_N = np.where(is_test_N, "test", "train")
    weight_N = _reweigh(weight_N, weight_N, is_test_N.astype(np.int64), stratum_N, keep_N)
    return Split(role_N, fold_N, weight_N, keep_N)


def hashed_test_rows(group_N: npt.NDArray[np.int64], share: float = 0.2) -> npt.NDArray[np.bool_]:
    """Return a stable grouped choice of test rows, for data that has neither times nor a split."""
    limit = int(share * 2**32)
    return np.array([_stable(int(group), "test") < limit for group in group_N], bool)


def mark_seen(
    values_N: Sequence[Mapping[str, str]], role_N: npt.NDArray[np.str_], keys: Iterable[str]
) -> list[dict[str, str]]:
    """Return per row, for test rows, whether an attribute's value occurs in another role: `seen` or `unseen`.

    A role that is neither `test` nor of `ROLES` marks a row that was left out: it was seen by nothing.
    """
    known = {
        key: {
            v[key]
            for v, role in zip(values_N, role_N, strict=True)
            if role in ROLES[:-1] and key in v
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


def _ranks(time_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    order = np.argsort(time_N, kind="stable")
    rank_N = np.empty(len(time_N), np.int64)
    rank_N[order] = np.arange(len(time_N))
    return rank_N


def _one_of_its_places(
    place_N: npt.NDArray[np.int64],
    group_N: npt.NDArray[np.int64],
    counts_N: npt.NDArray[np.bool_],
    chances: Sequence[float],
    salt: str,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return, per row, the place that its group was given to, and the chance that it had.

    Args:
        place_N: where each row falls.
        group_N: the group of each row.
        counts_N: rows whose place a group may be given to.
        chances: of each place, before they are divided by the sum over the places that the group has.
        salt: makes the choice independent of choices under another one.
    """
    places: defaultdict[int, set[int]] = defaultdict(set)
    for group, place in zip(group_N[counts_N].tolist(), place_N[counts_N].tolist(), strict=True):
        places[group].add(place)
    given: dict[int, tuple[int, float]] = {}
    for group, found in places.items():
        ordered = sorted(found)
        shares = np.array([chances[place] for place in ordered])
        shares /= shares.sum()
        pick = int(np.searchsorted(np.cumsum(shares), _stable(group, salt) / 2**32, side="right"))
        pick = min(pick, len(ordered) - 1)
        given[group] = (ordered[pick], float(shares[pick]))
    nowhere = (-1, 1.0)
    rows = [given.get(group, nowhere) for group in group_N.tolist()]
    chosen_N = np.array([place for place, _ in rows], np.int64)
    return chosen_N, np.array([chance for _, chance in rows], np.float64)


def _reweigh(
    weight_N: npt.NDArray[np.float64],
    drawn_N: npt.NDArray[np.float64],
    place_N: npt.NDArray[np.int64],
    stratum_N: Sequence[object],
    keep_N: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Return `drawn_N` of the kept rows, scaled per role and truth to the sum of `weight_N` over all its rows."""
    whole: defaultdict[tuple[int, object], float] = defaultdict(float)
    kept: defaultdict[tuple[int, object], float] = defaultdict(float)
    cells = [(int(p), s) for p, s in zip(place_N, stratum_N, strict=True)]
    for cell, weight, drawn, keep in zip(cells, weight_N, drawn_N, keep_N, strict=True):
        whole[cell] += weight
        kept[cell] += drawn * keep
    factor = [
        whole[cell] / kept[cell] if keep else 0.0 for cell, keep in zip(cells, keep_N, strict=True)
    ]
    return drawn_N * np.array(factor, np.float64)


def _stable(number: int, salt: str) -> int:
    """Return 32 bits that depend on `number` and `salt` alone, in every process."""
    return int.from_bytes(hashlib.sha256(f"{salt}:{number}".encode()).digest()[:4], "big")
