"""Coverage of flagged scores: what adjudicated flags stand for, and which scores nobody looked at."""

import numpy as np
import numpy.typing as npt
import pytest

from moderation.gates.coverage import Coverage, cover

Flags = npt.NDArray[np.bool_]

_ROWS = np.arange(400)
_SCORE_F = 0.5 + _ROWS / 1_000
_EVEN_F = np.ones(400)


def _covered(judged_F: Flags, *, most_unseen: float = 0.05) -> Coverage:
    return cover(_SCORE_F, _EVEN_F, judged_F, most_unseen=most_unseen)


def test_everything_adjudicated_stands_for_itself() -> None:
    weight_F = np.random.default_rng(0).uniform(1, 20, 400)
    covered = cover(_SCORE_F, weight_F, np.ones(400, bool), most_unseen=0.01)
    assert (covered.weight_R == weight_F).all()
    assert (covered.most, covered.ranges) == (1.0, "")
    assert not covered.unseen_F.any()


def test_adjudicated_and_unseen_make_up_all_flags() -> None:
    covered = _covered((_ROWS >= 100) & (_ROWS % 3 == 0))
    assert covered.weight_R.sum() + covered.unseen_F.sum() == pytest.approx(400)
    assert covered.unseen_F.tolist() == (_ROWS < 102).tolist()
    assert covered.ranges == "0.5 to 0.601"


def test_flag_stands_for_more_where_fewer_are_adjudicated() -> None:
    covered = _covered(np.where(_ROWS < 200, _ROWS % 10 == 0, True))
    assert covered.most == pytest.approx(10, rel=0.15)
    assert covered.weight_R[:4] == pytest.approx([10] * 4, rel=0.15)
    assert covered.weight_R[-1] == 1


@pytest.mark.parametrize(("most_unseen", "unseen"), [(0.05, 0), (0.04, 19)])
def test_gap_counts_where_it_is_wider_than_allowed(most_unseen: float, unseen: int) -> None:
    covered = _covered((_ROWS < 50) | (_ROWS >= 69), most_unseen=most_unseen)
    assert covered.unseen_F.sum() == unseen


def test_bin_without_any_is_unseen_whatever_is_allowed() -> None:
    covered = _covered((_ROWS == 0) | (_ROWS >= 200), most_unseen=0.9)
    assert covered.unseen_F[80:160].all()
    assert covered.weight_R.sum() + covered.unseen_F.sum() == pytest.approx(400)


def test_flags_of_an_adjudicated_score_are_seen() -> None:
    judged_F = np.arange(400) >= 390
    covered = cover(np.full(400, 0.9), _EVEN_F, judged_F, most_unseen=0.01)
    assert not covered.unseen_F.any()
    assert covered.weight_R == pytest.approx([40] * 10)


def test_many_ranges_are_not_all_told() -> None:
    covered = _covered(_ROWS % 80 == 79)
    assert covered.ranges.count(" to ") == 3
    assert covered.ranges.endswith("and 2 ranges more")
