"""The behaviour prefilter: what it cannot judge goes on, and what travels is what was fitted."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from moderation.behaviour_prefilter import Prefilter, PrefilterEvidence, digest_of, harm_score
from moderation.bundle import Bundle, build
from moderation.errors import BundleRejected
from moderation.features import FEATURE_NAMES
from moderation.scoring import Scorer, ScoringItem
from tests.prefiltered import AGE, UPLOADS, behaviours, evidence, prefilter, save
from tests.tiny_bundle import TinyRun

CALM, BUSY = behaviours(2)
KNOWN = np.ones(len(FEATURE_NAMES), bool)


@pytest.fixture(scope="module")
def opened() -> Prefilter:
    return prefilter()


def _with(values_F: npt.NDArray[np.float32], feature: int, value: float) -> npt.NDArray[np.float32]:
    changed_F = values_F.copy()
    changed_F[feature] = value
    return changed_F


def test_a_calm_seller_passes_and_a_busy_one_goes_on(opened: Prefilter) -> None:
    calm, busy = (opened.judge(values_F, KNOWN) for values_F in (CALM, BUSY))
    assert (calm.lets_go, busy.lets_go) == (True, False)
    assert calm.score is not None
    assert busy.score is not None
    assert calm.score < 0 <= busy.score


@pytest.mark.parametrize("feature", range(len(FEATURE_NAMES)))
def test_a_feature_that_is_not_ok_goes_on(opened: Prefilter, feature: int) -> None:
    is_ok_F = KNOWN.copy()
    is_ok_F[feature] = False
    said = opened.judge(CALM, is_ok_F)
    assert (said.lets_go, said.score) == (False, None)
    assert FEATURE_NAMES[feature] in said.reason


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_goes_on(opened: Prefilter, value: float) -> None:
    assert not opened.judge(_with(CALM, UPLOADS, value), KNOWN).lets_go
    assert not opened.lets_go(_with(CALM, UPLOADS, value)[None]).any()


def test_a_new_seller_goes_on(opened: Prefilter) -> None:
    said = opened.judge(_with(CALM, AGE, 2.9), KNOWN)
    assert (said.lets_go, said.reason) == (False, "new seller")


def test_a_closed_prefilter_lets_nothing_go(opened: Prefilter) -> None:
    closed = Prefilter(evidence(None), opened.model)
    assert not closed.judge(CALM, KNOWN).lets_go
    assert not closed.lets_go(behaviours(50)).any()
    assert "everything goes on" in str(closed.evidence)


def test_many_rows_are_judged_as_one_by_one(opened: Prefilter) -> None:
    values_NF = behaviours(60, seed=3)
    values_NF[::7, 4], values_NF[::5, AGE] = np.nan, 1.0
    one_by_one = [opened.judge(values_F, KNOWN).lets_go for values_F in values_NF]
    np.testing.assert_array_equal(opened.lets_go(values_NF), one_by_one)
    assert 0 < sum(one_by_one) < 60


def test_bytes_travel_unchanged(opened: Prefilter) -> None:
    data = opened.to_bytes()
    came = Prefilter.from_bytes(data, digest=digest_of(data))
    assert came.evidence == opened.evidence
    assert came.to_bytes() == data
    assert came.judge(CALM, KNOWN) == opened.judge(CALM, KNOWN)


def test_altered_bytes_are_refused(opened: Prefilter) -> None:
    data = opened.to_bytes()
    with pytest.raises(BundleRejected, match="altered"):
        Prefilter.from_bytes(data.replace(b"0.99", b"0.19"), digest=digest_of(data))


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("prefilter", "features", ["submissions_1h"]),
        ("behaviour", "features", list(reversed(FEATURE_NAMES))),
        ("prefilter", "format", 9),
        ("prefilter", "threshold", "high"),
        ("behaviour", "policies", None),
    ],
)
def test_what_this_release_cannot_read_is_refused(
    opened: Prefilter, place: str, key: str, value: object
) -> None:
    content = json.loads(opened.to_bytes())
    content[place][key] = value
    data = json.dumps(content).encode()
    with pytest.raises(BundleRejected, match="no readable prefilter"):
        Prefilter.from_bytes(data, digest=digest_of(data))


def test_a_folder_is_read_as_it_was_written(opened: Prefilter, tmp_path: Path) -> None:
    save(opened, tmp_path)
    loaded = Prefilter.load(tmp_path)
    assert loaded is not None
    assert loaded.to_bytes() == opened.to_bytes()
    (tmp_path / "prefilter.json").write_text('{"format": 1}')
    with pytest.raises(BundleRejected, match="no readable prefilter"):
        PrefilterEvidence.load(tmp_path / "prefilter.json")


def test_the_likeliest_violation_counts() -> None:
    np.testing.assert_array_equal(harm_score(np.array([[-3.0, -1.0], [-2.0, -9.0]])), [-1.0, -2.0])


def test_a_bundle_without_one_lets_nothing_go(tiny_bundle: Bundle) -> None:
    scorer = Scorer(tiny_bundle)
    assert scorer.prefilter is None
    assert scorer.lets_go([ScoringItem("a", behaviour=CALM)]) is None


def test_a_bundle_carries_it_for_its_own_trees(tiny: TinyRun, tmp_path: Path) -> None:
    evidence(1e6).save(tmp_path / "prefilter.json")
    parts = tiny.parts | {"prefilter": tmp_path / "prefilter.json"}
    bundle = build(tmp_path / "bundle", parts, tiny.description)
    fitted = bundle.manifest.components["prefilter"].fitted_on
    assert fitted == {"behaviour": bundle.versions["behaviour"]}
    unknown_F = _with(CALM, UPLOADS, np.nan)
    items = [ScoringItem("a", behaviour=one) for one in (CALM, unknown_F, None)]
    lets_go_N = Scorer(bundle).lets_go(items)
    assert lets_go_N is not None
    assert lets_go_N.tolist() == [True, False, False]


def test_a_closed_one_says_that_nothing_is_let_go(tiny: TinyRun, tmp_path: Path) -> None:
    evidence(None).save(tmp_path / "prefilter.json")
    parts = tiny.parts | {"prefilter": tmp_path / "prefilter.json"}
    scorer = Scorer(build(tmp_path / "bundle", parts, tiny.description))
    assert scorer.lets_go([ScoringItem("a", behaviour=CALM)]) is None


def test_one_for_other_policies_is_refused(tiny: TinyRun, tmp_path: Path) -> None:
    evidence(1.0, policies=("other",)).save(tmp_path / "prefilter.json")
    parts = tiny.parts | {"prefilter": tmp_path / "prefilter.json"}
    with pytest.raises(BundleRejected, match=r"prefilter\.json"):
        build(tmp_path / "bundle", parts, tiny.description)
