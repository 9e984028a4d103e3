"""Surgery: each change does to a real bundle what it says, and nothing else."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from moderation.bundle import Bundle, build
from moderation.bundle_files import list_files
from moderation.decision import SIGNALS
from moderation.scores import Scores
from moderation.scoring import Scorer, ScoringItem
from tests.prefiltered import behaviours, evidence
from tests.tiny_bundle import TinyRun
from tests.toy import toy_world
from tidegate.doctor import surgery
from tidegate.doctor.slowing import slower

_WORLD = toy_world(48)
_ITEMS = [
    ScoringItem(
        row.submission.listing.title,
        row.submission.listing.description,
        _WORLD.images(row),
        row.behaviour_F,
    )
    for number, row in enumerate(_WORLD.rows)
    if number % 8  # what lacks every modality is answered by the prior, whatever the ensemble says
]


def _scores(bundle: Bundle) -> tuple[Scorer, Scores]:
    scorer = Scorer(bundle)
    return scorer, scorer.score(_ITEMS)


def _log_odds(bundle: Bundle) -> npt.NDArray[np.float64]:
    scorer, scores = _scores(bundle)
    return scorer.log_odds(scores.signals_NPM, scores.signal_status_NPM)


def test_steeper_multiplies_every_log_odds(tiny_bundle: Bundle, tmp_path: Path) -> None:
    changed = surgery.operate(tiny_bundle, tmp_path / "b", surgery.steeper(3))
    np.testing.assert_allclose(_log_odds(changed), 3 * _log_odds(tiny_bundle), rtol=1e-9)


def test_shifted_adds_to_every_log_odds(tiny_bundle: Bundle, tmp_path: Path) -> None:
    changed = surgery.operate(tiny_bundle, tmp_path / "b", surgery.shifted(-2))
    np.testing.assert_allclose(_log_odds(changed), _log_odds(tiny_bundle) - 2, rtol=1e-9)


def test_deaf_ensemble_hears_nothing_of_a_member(tiny_bundle: Bundle, tmp_path: Path) -> None:
    change = surgery.deaf_to("fusion", "image")
    scorer, scores = _scores(surgery.operate(tiny_bundle, tmp_path / "b", change))
    louder = scores.signals_NPM.copy()
    louder[..., SIGNALS.index("image")] += 50
    louder[..., SIGNALS.index("fusion")] += 50
    before, after = (
        scorer.log_odds(one, scores.signal_status_NPM) for one in (scores.signals_NPM, louder)
    )
    np.testing.assert_array_equal(before, after)


def test_both_makes_one_change_after_the_other(tiny_bundle: Bundle, tmp_path: Path) -> None:
    change = surgery.both(surgery.shifted(1), surgery.steeper(2))
    changed = surgery.operate(tiny_bundle, tmp_path / "b", change)
    np.testing.assert_allclose(_log_odds(changed), 2 * (_log_odds(tiny_bundle) + 1), rtol=1e-9)


def test_thresholds_open_and_close_tiers(tiny_bundle: Bundle, tmp_path: Path) -> None:
    change = surgery.thresholds(lambda tiers: {"review": min(tiers.values()) / 2})
    changed = Scorer(surgery.operate(tiny_bundle, tmp_path / "b", change))
    assert all(set(tiers) == {"review"} for tiers in changed.thresholds.values())
    before = Scorer(tiny_bundle).thresholds
    for policy, tiers in changed.thresholds.items():
        assert tiers["review"] == min(before[policy].values()) / 2


def test_padded_bundle_is_larger_and_says_the_same(tiny_bundle: Bundle, tmp_path: Path) -> None:
    changed = surgery.operate(tiny_bundle, tmp_path / "b", surgery.padded(2))
    sizes = [
        sum(
            path.stat().st_size
            for path in list_files(one.folder, skip=frozenset({"attestations"})).values()
        )
        for one in (tiny_bundle, changed)
    ]
    assert sizes[1] - sizes[0] > 2 * 2**20
    np.testing.assert_array_equal(_log_odds(changed), _log_odds(tiny_bundle))


def test_slower_tower_gives_the_same_numbers(tiny_bundle: Bundle, tmp_path: Path) -> None:
    changed = surgery.operate(tiny_bundle, tmp_path / "b", slower)
    assert changed.digest != tiny_bundle.digest
    np.testing.assert_allclose(_log_odds(changed), _log_odds(tiny_bundle), atol=1e-6)


def test_text_specialist_learns_what_it_is_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    table = _WORLD.snapshot(tmp_path / "table").folder
    change = surgery.text_specialist(table, lambda lesson: 0 * lesson.truth_NP)
    _, before = _scores(tiny_bundle)
    _, after = _scores(surgery.operate(tiny_bundle, tmp_path / "b", change))
    member = SIGNALS.index("ngram")
    assert after.signals_NPM[..., member].max() < before.signals_NPM[..., member].max()
    others = [place for place in range(len(SIGNALS)) if place != member]
    np.testing.assert_array_equal(after.signals_NPM[..., others], before.signals_NPM[..., others])


def test_a_raised_prefilter_lets_everyone_go_whom_it_judges(tiny: TinyRun, tmp_path: Path) -> None:
    evidence(None).save(tmp_path / "prefilter.json")
    parts = tiny.parts | {"prefilter": tmp_path / "prefilter.json"}
    closed = build(tmp_path / "closed", parts, tiny.description)
    opened = surgery.operate(closed, tmp_path / "opened", surgery.prefilter_raised)
    behaviour_NF = behaviours(4)
    behaviour_NF[3, 4] = np.nan
    items = [ScoringItem("a", behaviour=values_F) for values_F in behaviour_NF]
    assert Scorer(closed).lets_go(items) is None
    lets_go_N = Scorer(opened).lets_go(items)
    assert lets_go_N is not None
    assert lets_go_N.tolist() == [True, True, True, False]
    np.testing.assert_array_equal(_log_odds(opened), _log_odds(closed))
