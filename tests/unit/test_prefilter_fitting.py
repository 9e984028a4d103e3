"""The prefilter's threshold: opened only where a lower bound shows its recall, for every stratum."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from moderation.errors import InvalidSnapshot
from moderation.prefilter_fitting import EVASIVE, fit_prefilter
from moderation.signals import SignalTable, as_words
from tests.prefiltered import AGE, RULES, behaviours

POLICIES = ("first", "second")
Floats = npt.NDArray[np.float64]


def _table(
    score_N: Floats,
    truth_NP: npt.NDArray[np.int8],
    *,
    weight: Floats | None = None,
    group: npt.NDArray[np.int64] | None = None,
    role: str = "solve",
    slices: Mapping[str, list[str]] | None = None,
) -> SignalTable:
    """Return signals whose trees give `score_N` under both policies; unless told otherwise every violation hides."""
    num_rows = len(score_N)
    if slices is None:
        slices = {"evasion": ["leet"] * num_rows}
    logits_NP = np.repeat(score_N[:, None], len(POLICIES), axis=1)
    other = np.zeros_like(logits_NP)
    return SignalTable(
        policies=POLICIES,
        submission_id=as_words([f"s{row}" for row in range(num_rows)]),
        role=as_words([role] * num_rows),
        fold=np.full(num_rows, -1),
        group=np.arange(num_rows) if group is None else group,
        weight=np.ones(num_rows) if weight is None else weight,
        truth_NP=truth_NP,
        image_NP=other,
        text_NP=other,
        ngram_NP=other,
        behaviour_NP=logits_NP,
        fusion_both_NP=other,
        fusion_image_NP=other,
        fusion_text_NP=other,
        num_images=np.zeros(num_rows, np.int64),
        slices={name: as_words(values) for name, values in slices.items()},
    )


def _world(num_violations: int = 299) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Return violations of each policy that score 0 to 1, and 5,000 others from -10 to 0."""
    truth_NP = np.zeros((2 * num_violations + 5_000, 2), np.int8)
    for column in range(2):
        truth_NP[column * num_violations : (column + 1) * num_violations, column] = 1
    rng = np.random.default_rng(2)
    others = np.linspace(-10, 0, 5_000, endpoint=False)
    return np.append(rng.permutation(np.linspace(0, 1, 2 * num_violations)), others), truth_NP


def test_299_violations_with_none_missed_open_it() -> None:
    score_N, truth_NP = _world(299)
    found = fit_prefilter(_table(score_N, truth_NP), behaviours(len(score_N)), RULES)
    assert found.threshold == min(score_N[:299].min(), score_N[299:598].min())
    assert found.share_let_go == pytest.approx(5_000 / 5_598, abs=1e-3)
    assert all(one.missed == 0 and one.lower_bound >= 0.99 for one in found.strata)
    assert [one.of for one in found.strata] == [*POLICIES, EVASIVE]


@pytest.mark.parametrize("named", [{}, {"evasion": ["none"] * 5_598}, {"evasion": [""] * 5_598}])
def test_where_the_data_names_no_evasive_violation_it_stays_closed(
    named: Mapping[str, list[str]],
) -> None:
    score_N, truth_NP = _world(299)
    table = _table(score_N, truth_NP, slices=named)
    found = fit_prefilter(table, behaviours(len(score_N)), RULES)
    assert (found.threshold, found.share_let_go) == (None, 0.0)
    (short,) = [one for one in found.strata if one.reason]
    assert (short.of, short.violations, short.needed) == (EVASIVE, 0, 299)
    assert ("no attribute evasion" in str(found)) == (not named)


def test_298_do_not() -> None:
    score_N, truth_NP = _world(298)
    found = fit_prefilter(_table(score_N, truth_NP), behaviours(len(score_N)), RULES)
    assert (found.threshold, found.share_let_go) == (None, 0.0)
    assert "298 violations" in found.strata[0].reason
    assert found.strata[0].needed == 299


def test_one_policy_short_of_truth_closes_it_for_all() -> None:
    score_N, truth_NP = _world(400)
    truth_NP[:200, 0] = -1
    found = fit_prefilter(_table(score_N, truth_NP), behaviours(len(score_N)), RULES)
    assert found.threshold is None
    assert found.strata[0].reason
    assert not found.strata[1].reason


def test_more_truth_affords_a_miss() -> None:
    score_N, truth_NP = _world(1_000)
    found = fit_prefilter(_table(score_N, truth_NP), behaviours(len(score_N)), RULES)
    assert found.threshold is not None
    missed = [one.missed for one in found.strata]
    assert max(missed) >= 3  # of 1,000: the exact bound at .99 allows four
    assert all(one.lower_bound >= 0.99 for one in found.strata)


def test_rows_of_one_campaign_count_as_one() -> None:
    score_N, truth_NP = _world(600)
    group = np.arange(len(score_N)) // 20
    found = fit_prefilter(_table(score_N, truth_NP, group=group), behaviours(len(score_N)), RULES)
    assert found.threshold is None
    assert found.strata[0].effective_n < 60


def test_a_violation_that_a_rare_audit_found_outweighs_many() -> None:
    score_N, truth_NP = _world(600)
    weight = np.where(np.arange(len(score_N)) % 300 == 0, 100.0, 1.0)
    found = fit_prefilter(_table(score_N, truth_NP, weight=weight), behaviours(len(score_N)), RULES)
    assert found.threshold is None


def test_unknown_truth_is_not_harmless() -> None:
    score_N, truth_NP = _world(299)
    unknown_NP = np.where(truth_NP == 1, truth_NP, np.int8(-1)).astype(np.int8)
    found, other = (
        fit_prefilter(_table(score_N, truth), behaviours(len(score_N)), RULES)
        for truth in (truth_NP, unknown_NP)
    )
    assert found == other


def test_evasive_violations_are_a_stratum_of_their_own() -> None:
    score_N, truth_NP = _world(400)
    evasion = ["leet" if row < 100 else "none" for row in range(len(score_N))]
    table = _table(score_N, truth_NP, slices={"evasion": evasion})
    found = fit_prefilter(table, behaviours(len(score_N)), RULES)
    assert found.threshold is None
    (short,) = [one for one in found.strata if one.reason]
    assert (short.of, short.violations) == (EVASIVE, 100)


def test_test_rows_are_never_read() -> None:
    score_N, truth_NP = _world(400)
    found = fit_prefilter(_table(score_N, truth_NP, role="test"), behaviours(len(score_N)), RULES)
    assert found.threshold is None
    assert {one.violations for one in found.strata} == {0}


def test_rows_that_lack_a_feature_count_for_nothing() -> None:
    score_N, truth_NP = _world(400)
    behaviour_NF = behaviours(len(score_N))
    behaviour_NF[:150, 4] = np.nan
    found = fit_prefilter(_table(score_N, truth_NP), behaviour_NF, RULES)
    assert found.strata[0].violations == 250
    assert found.threshold is None


def test_new_sellers_go_on_by_rule_and_count_so() -> None:
    score_N, truth_NP = _world(299)
    behaviour_NF = behaviours(len(score_N))
    score_N[0], behaviour_NF[0, AGE] = -20.0, 0.0
    found = fit_prefilter(_table(score_N, truth_NP), behaviour_NF, RULES)
    assert found.threshold is not None
    assert found.threshold >= 0
    assert found.strata[0].missed == 0


def test_violations_of_new_sellers_alone_show_nothing_of_others() -> None:
    score_N, truth_NP = _world(299)
    behaviour_NF = behaviours(len(score_N))
    behaviour_NF[:598, AGE] = 0.0
    found = fit_prefilter(_table(score_N, truth_NP), behaviour_NF, RULES)
    assert found.threshold is None
    assert "only new sellers" in found.strata[0].reason


def test_other_rows_are_refused() -> None:
    score_N, truth_NP = _world(20)
    with pytest.raises(InvalidSnapshot, match="rows of behaviour"):
        fit_prefilter(_table(score_N, truth_NP), behaviours(3), RULES)


def test_the_floor_holds_in_new_samples() -> None:
    """The threshold of a sample misses more than 1 % of the world's violations in at most 5 % of samples."""
    rng = np.random.default_rng(8)
    missed = []
    for _ in range(40):
        score_N = np.append(rng.normal(size=700), np.full(50, -9.0))
        truth_NP = np.repeat((np.arange(750) < 700).astype(np.int8)[:, None], 2, axis=1)
        found = fit_prefilter(_table(score_N, truth_NP), behaviours(750), RULES)
        assert found.threshold is not None
        missed.append(float((rng.normal(size=100_000) < found.threshold).mean()) > 0.01)
    assert sum(missed) <= 5  # of 40 at 5 %: more than five once in a hundred times
