"""Coverage of flagged scores: what adjudicated flags stand for, and which scores nobody looked at."""

import numpy as np
import numpy.typing as npt
import pytest

from moderation.gates.coverage import Coverage, cover

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_ROWS = np.arange(400)
_SCORE_F = 0.5 + _ROWS / 1_000
_EVEN_F = np.ones(400)
_ALONE_F = np.arange(400)


def _covered(judged_F: Flags, *, most_unseen: float = 0.05) -> Coverage:
    return cover(_SCORE_F, _EVEN_F, judged_F, _ALONE_F, most_unseen=most_unseen)


def test_everything_adjudicated_stands_for_itself() -> None:
    weight_F = np.random.default_rng(0).uniform(1, 20, 400)
    covered = cover(_SCORE_F, weight_F, np.ones(400, bool), _ALONE_F, most_unseen=0.01)
    assert (covered.weight_R == weight_F).all()
    assert (covered.most, covered.ranges) == (1.0, "")
    assert not covered.unseen_F.any()


def test_adjudicated_and_unseen_make_up_all_flags() -> None:
    covered = _covered((_ROWS >= 100) & (_ROWS % 3 == 0))
    assert covered.weight_R.sum() + covered.unseen_F.sum() == pytest.approx(400)
    assert covered.unseen_F.tolist() == (_ROWS < 102).tolist()
    assert covered.ranges == "0.5 to 0.601"


def test_flags_above_the_highest_adjudicated_score_are_unseen() -> None:
    covered = _covered(_ROWS < 395)
    assert covered.unseen_F.tolist() == (_ROWS >= 395).tolist()
    assert covered.ranges == "0.895 to 0.899"


def test_flag_stands_for_more_where_fewer_are_adjudicated() -> None:
    covered = _covered(np.where(_ROWS < 200, _ROWS % 10 == 0, True))
    assert covered.most == pytest.approx(10, rel=0.15)
    assert covered.weight_R[:4] == pytest.approx([10] * 4, rel=0.15)
    assert covered.weight_R[-1] == 1


@pytest.mark.parametrize(("most_unseen", "unseen"), [(0.05, 0), (0.04, 379)])
def test_gap_counts_where_it_is_wider_than_allowed(most_unseen: float, unseen: int) -> None:
    covered = _covered((_ROWS % 20 == 0) | (_ROWS == 399), most_unseen=most_unseen)
    assert covered.unseen_F.sum() == unseen


def test_narrow_gap_counts_where_all_beside_it_is_adjudicated() -> None:
    covered = _covered((_ROWS < 50) | (_ROWS >= 60), most_unseen=0.05)
    assert covered.unseen_F.tolist() == ((_ROWS >= 50) & (_ROWS < 60)).tolist()


def _comb(num_points: int, num_judged: int, num_others: int) -> Coverage:
    """Return flags of scores that nobody looked at, each between two of which so many were adjudicated."""
    points = np.linspace(0.5, 0.9, 2 * num_points - 1)
    judged_K = np.arange(len(points)) % 2 == 0
    sizes = np.where(judged_K, num_judged, num_others)
    score_F, judged_F = np.repeat(points, sizes), np.repeat(judged_K, sizes)
    num_rows = len(score_F)
    return cover(score_F, np.ones(num_rows), judged_F, np.arange(num_rows), most_unseen=0.05)


@pytest.mark.parametrize(("num_judged", "num_others"), [(40, 40), (40, 10), (5, 45)])
def test_gaps_that_are_too_many_for_chance_add_up(num_judged: int, num_others: int) -> None:
    covered = _comb(21, num_judged, num_others)
    assert covered.unseen_F.sum() == 20 * num_others
    assert covered.most == 1.0


def _rates(kind: str) -> Floats:
    share = _ROWS / 400
    steps = {"step": np.where(share < 0.5, 1.0, 0.2), "slope": 0.1 + 0.9 * share}
    return steps[kind] if kind in steps else np.full(400, float(kind))


@pytest.mark.parametrize("kind", ["0.1", "0.25", "0.5", "0.9", "step", "slope"])
def test_random_adjudication_leaves_little_unseen(kind: str) -> None:
    inner = []
    for seed in range(100):
        judged_F = np.random.default_rng(seed).random(400) < _rates(kind)
        covered = _covered(judged_F, most_unseen=0.2)
        lowest, highest = np.flatnonzero(judged_F)[[0, -1]]
        inner.append(covered.unseen_F[lowest:highest].sum())
    assert np.count_nonzero(inner) <= 5


@pytest.mark.parametrize(("is_alone", "is_seen"), [(False, True), (True, False)])
def test_campaigns_adjudicated_whole_leave_longer_gaps(is_alone: bool, is_seen: bool) -> None:
    campaign_F = _ALONE_F // 10
    group_F = _ALONE_F if is_alone else campaign_F
    missed = []
    for seed in range(50):
        judged_F = (np.random.default_rng(seed).random(40) < 0.6)[campaign_F]
        judged_F[[0, -1]] = True
        covered = cover(_SCORE_F, _EVEN_F, judged_F, group_F, most_unseen=0.2)
        missed.append(covered.unseen_F.any())
    assert (np.mean(missed) <= 0.1) if is_seen else (np.mean(missed) >= 0.9)


def test_bin_without_any_is_unseen_whatever_is_allowed() -> None:
    covered = _covered((_ROWS == 0) | (_ROWS >= 200), most_unseen=0.9)
    assert covered.unseen_F[80:160].all()
    assert covered.weight_R.sum() + covered.unseen_F.sum() == pytest.approx(400)


def test_flags_of_an_adjudicated_score_are_seen() -> None:
    judged_F = np.arange(400) >= 390
    covered = cover(np.full(400, 0.9), _EVEN_F, judged_F, _ALONE_F, most_unseen=0.01)
    assert not covered.unseen_F.any()
    assert covered.weight_R == pytest.approx([40] * 10)


def test_many_ranges_are_not_all_told() -> None:
    covered = _covered(_ROWS % 80 == 79)
    assert covered.ranges.count(" to ") == 3
    assert covered.ranges.endswith("and 2 ranges more")
