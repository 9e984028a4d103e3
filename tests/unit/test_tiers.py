"""Tier gates: precision at deployment prevalence, sellers, campaigns, caps, reach and volume."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from moderation.gates.evidence import ScoredSet
from moderation.gates.judging import GateResult
from moderation.precision import flags_for_power
from tests.gate_rates import TIERS, enriched_and_deployed, flagged_traffic, judged
from tests.gate_world import with_candidate, with_rows

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


def _result(found: ScoredSet, gate: str) -> GateResult:
    return judged(found, gate, resamples=200).results[0]


def _thresholds(found: ScoredSet, **limits: float) -> ScoredSet:
    return replace(found, candidate=replace(found.candidate, thresholds={"weapons": limits}))


def test_flags_for_power_are_those_of_the_method() -> None:
    found = [flags_for_power(0.99, 0.95, p) for p in (0.998, 0.995)]
    assert found == pytest.approx([640, 1_960], rel=0.02)
    assert flags_for_power(0.95, 0.95, 0.97) == pytest.approx(660, rel=0.1)
    assert flags_for_power(0.95, 0.95, 0.95) is None


def test_good_tiers_pass_and_nothing_is_capped() -> None:
    judgement = judged(flagged_traffic(2_000, 0.9985), *TIERS)
    assert judgement.is_passing
    assert judgement.caps == {}


def test_enriched_set_flatters_and_traffic_does_not() -> None:
    enriched, deployed = enriched_and_deployed()
    flattering, honest = (_result(one, "tier-block") for one in (enriched, deployed))
    assert flattering.state == "pass"
    assert flattering.checks[0].estimate.value == pytest.approx(0.991, abs=0.001)
    assert honest.blocks
    assert honest.state == "fail"
    assert honest.checks[0].estimate.value == pytest.approx(0.31, abs=0.01)
    assert honest.checks[0].estimate.detail["unweighted_precision"] > 0.8
    assert judged(deployed, "tier-block").caps == {"weapons": "block"}


@pytest.mark.parametrize(("flags", "state"), [(299, "pass"), (298, "not_certified")])
def test_suspend_takes_299_sellers_without_an_error(flags: int, state: str) -> None:
    result = _result(flagged_traffic(flags, 1.0), "tier-suspend")
    assert result.state == state
    if state != "pass":
        assert "299 flagged sellers without another error" in result.reason
        assert "for 80 % power at a true 0.998" in result.reason


def test_not_certified_tier_is_capped_and_does_not_block() -> None:
    judgement = judged(flagged_traffic(200, 1.0), *TIERS)
    assert judgement.is_passing
    assert judgement.caps == {"weapons": "suspend"}


def test_closed_tier_is_no_data_and_capped() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), review=0.2)
    judgement = judged(found, "tier-block")
    assert judgement.results[0].state == "no_data"
    assert not judgement.results[0].blocks
    assert "closed: nothing is flagged" in judgement.results[0].reason
    assert judgement.caps == {"weapons": "block"}


def test_suspend_counts_sellers_not_listings() -> None:
    found = flagged_traffic(600, 1.0)
    few = np.char.add("seller-", (np.arange(found.num_rows) // 20).astype(str))
    result = _result(replace(found, seller_id=few), "tier-suspend")
    assert result.state == "not_certified"
    assert result.checks[0].estimate.rows == 30
    assert _result(replace(found, seller_id=few), "tier-block").state == "pass"


def test_seller_is_as_right_as_its_flagged_listings() -> None:
    found = flagged_traffic(600, 1.0)
    pairs = np.char.add("seller-", (np.arange(found.num_rows) // 2).astype(str))
    truth_NP = found.truth_NP.copy()
    truth_NP[:10:2] = 0
    estimate = (
        _result(replace(found, seller_id=pairs, truth_NP=truth_NP), "tier-suspend")
        .checks[0]
        .estimate
    )
    assert estimate.value == pytest.approx(1 - 5 * 0.5 / 300)


def _thinned_sellers(
    guilty_share: float, *, sizes: tuple[int, int], num: int = 4_000, seed: int
) -> ScoredSet:
    """Return sellers who were all suspended, of whom one listing in ten was kept.

    Args:
        guilty_share: of the sellers.
        sizes: listings of a guilty seller, and of an innocent one.
        num: sellers.
        seed: draws.
    """
    rng = np.random.default_rng(seed)
    guilty_S = rng.random(num) < guilty_share
    seller_L = np.repeat(np.arange(num), np.where(guilty_S, *sizes))
    seller_N = seller_L[rng.random(len(seller_L)) < 0.1]
    found = flagged_traffic(len(seller_N), 1.0)
    truth_NP, weight, group = found.truth_NP.copy(), found.weight.copy(), found.group + num
    truth_NP[: len(seller_N), 0] = guilty_S[seller_N]
    weight[: len(seller_N)], group[: len(seller_N)] = 10.0, seller_N
    sellers = np.char.add("seller-", group.astype(str))
    return replace(found, truth_NP=truth_NP, weight=weight, group=group, seller_id=sellers)


def test_thinned_bulk_sellers_do_not_certify_suspension() -> None:
    estimates = []
    for seed in range(20):
        found = _thinned_sellers(0.97, sizes=(10, 1), seed=seed)
        result = _result(found, "tier-suspend")
        assert result.state != "pass"
        estimates.append(result.checks[0].estimate.value)
    assert all(value is not None for value in estimates)
    assert np.mean(np.array(estimates, float)) < 0.97


def test_thinned_bulk_sellers_pass_when_they_are_guilty() -> None:
    few, many = (_thinned_sellers(0.9999, sizes=(10, 1), num=num, seed=0) for num in (4_000, 6_000))
    assert _result(few, "tier-suspend").state == "not_certified"  # an innocent one is in one of ten
    assert _result(many, "tier-suspend").state == "pass"


@pytest.mark.parametrize("alike", [0.5, 1.0])
def test_bad_campaigns_rarely_pass(alike: float) -> None:
    passed = [
        _result(flagged_traffic(600, 0.94, size=20, alike=alike, seed=seed), "tier-block").state
        == "pass"
        for seed in range(120)
    ]
    assert np.mean(passed) <= 0.08  # independent rows pass 21 % and 47 %


def test_good_campaigns_still_pass() -> None:
    found = flagged_traffic(4_000, 0.995, size=20, alike=0.5)
    assert _result(found, "tier-block").state == "pass"


def test_unadjudicated_flags_do_not_count() -> None:
    found = flagged_traffic(600, 1.0)
    adjudicated_NP = found.adjudicated_NP & (np.arange(found.num_rows) >= 560)[:, None]
    result = _result(replace(found, adjudicated_NP=adjudicated_NP), "tier-block")
    assert result.state == "not_certified"
    nobody = replace(found, adjudicated_NP=np.zeros_like(found.adjudicated_NP))
    assert "600 flagged, none of them adjudicated" in _result(nobody, "tier-block").reason


def test_adjudicated_rows_stand_for_all_scores() -> None:
    found = flagged_traffic(1_200, 1.0)
    log_odds_NP, truth_NP = found.candidate.log_odds_NP.copy(), found.truth_NP.copy()
    log_odds_NP[:1_200, 0] = np.linspace(9, 4, 1_200)
    truth_NP[600:1_200:3] = 0  # near the threshold a third is wrong
    seen_N = np.ones(found.num_rows, bool)
    seen_N[600:1_200] = np.arange(600) % 6 < 2  # and seldom looked at
    odd = replace(
        with_candidate(found, log_odds_NP),
        truth_NP=truth_NP,
        adjudicated_NP=found.adjudicated_NP & seen_N[:, None],
    )
    estimate = _result(odd, "tier-block").checks[0].estimate
    known = truth_NP[:1_200][seen_N[:1_200]].mean()
    assert estimate.detail["unweighted_precision"] == pytest.approx(known)
    assert estimate.value is not None
    assert estimate.value < known - 0.05


def _scored_apart(num_flags: int, precision: float = 1.0, *, seed: int = 0) -> ScoredSet:
    """Return traffic whose flags have scores from .999 down to .974, the highest first."""
    found = flagged_traffic(num_flags, precision, seed=seed)
    log_odds_NP = found.candidate.log_odds_NP.copy()
    log_odds_NP[:num_flags, 0] = np.linspace(9, 3.6, num_flags)
    return with_candidate(found, log_odds_NP)


def _looked_at(found: ScoredSet, seen_F: Flags) -> ScoredSet:
    adjudicated_NP = found.adjudicated_NP.copy()
    adjudicated_NP[: len(seen_F), 0] &= seen_F
    return replace(found, adjudicated_NP=adjudicated_NP)


@pytest.mark.parametrize("is_right", [True, False])
def test_nothing_is_certified_over_scores_nobody_saw(is_right: bool) -> None:
    found = _scored_apart(2_115)
    found.truth_NP[1_113:2_115, 0] = is_right
    unseen = _looked_at(found, np.arange(2_115) < 1_113)
    result = _result(unseen, "tier-block")
    assert result.state == "not_certified"
    assert "it would take 33 more adjudicated flags" in result.reason
    assert "nobody adjudicated any of 1002 of 2115 flags, scored 0.9734 to 0.99789" in result.reason
    assert judged(unseen, "tier-block").caps == {"weapons": "block"}


@pytest.mark.parametrize("more", [1, 10, 33])
def test_adjudicated_flags_that_were_missing_certify(more: int) -> None:
    found = _scored_apart(2_115)
    picked = np.linspace(1_113, 2_114, more).round().astype(int)
    seen_F = (np.arange(2_115) < 1_113) | np.isin(np.arange(2_115), picked)
    result = _result(_looked_at(found, seen_F), "tier-block")
    assert result.state == ("pass" if more == 33 else "not_certified")


def test_suspend_is_certified_by_the_flags_that_it_asks_for() -> None:
    found = _thresholds(_scored_apart(2_115), review=0.2, suspend=0.97)
    rows = np.arange(2_115)
    asked = _result(_looked_at(found, rows < 1_113), "tier-suspend").checks[0].estimate.needed
    assert asked is not None
    picked = np.linspace(1_113, 2_114, asked).round().astype(int)
    few_F, all_F = ((rows < 1_113) | np.isin(rows, one) for one in (picked[::2], picked))
    assert _result(_looked_at(found, few_F), "tier-suspend").state == "not_certified"
    assert _result(_looked_at(found, all_F), "tier-suspend").state == "pass"


def test_range_left_out_between_adjudicated_ones_counts() -> None:
    found = _scored_apart(1_200)
    found.truth_NP[900:1_000, 0] = 0
    rows = np.arange(1_200)
    result = _result(_looked_at(found, (rows < 900) | (rows >= 1_000)), "tier-block")
    assert result.state == "not_certified"
    assert "nobody adjudicated any of 100 of 1200 flags" in result.reason


def _on_points(seen_F: Flags, score_F: Floats, *, right: float = 1.0) -> ScoredSet:
    """Return 1,000 flags at these scores, of which those seen violate so often and the others are of unknown truth."""
    found = flagged_traffic(1_000, right, seed=1)
    log_odds_NP, truth_NP = found.candidate.log_odds_NP.copy(), found.truth_NP.copy()
    log_odds_NP[:1_000, 0] = np.log(score_F) - np.log1p(-score_F)
    truth_NP[:1_000, 0][~seen_F] = -1
    return _looked_at(replace(with_candidate(found, log_odds_NP), truth_NP=truth_NP), seen_F)


def test_narrow_gaps_between_adjudicated_scores_add_up() -> None:
    points = np.linspace(0.972, 0.9975, 25)  # every second one is left out, 4 % of the flags each
    place_F = np.arange(1_000) // 40
    result = _result(_on_points(place_F % 2 == 0, points[place_F]), "tier-block")
    assert result.state == "not_certified"
    assert "nobody adjudicated any of 480 of 1000 flags" in result.reason
    everything = _on_points(np.ones(1_000, bool), points[place_F])
    assert _result(everything, "tier-block").state == "pass"


@pytest.mark.parametrize(("num_unseen", "state"), [(0, "pass"), (49, "not_certified")])
def test_highest_scores_that_nobody_saw_are_no_right_ones(num_unseen: int, state: str) -> None:
    score_F = np.linspace(0.972, 0.9979, 1_000)
    found = _on_points(np.arange(1_000) < 1_000 - num_unseen, score_F, right=0.97)
    assert _result(found, "tier-block").state == state


def test_few_flags_nobody_saw_are_borne_as_wrong() -> None:
    found = _looked_at(_scored_apart(1_200), np.arange(1_200) < 1_170)
    result = _result(found, "tier-block")
    low = result.checks[0].low
    assert result.state == "pass"
    assert low is not None
    assert low < 1 - 30 / 1_200


@pytest.mark.parametrize("share", [(0.3, 0.3), (0.6, 0.15)])
def test_sample_over_all_scores_certifies(share: tuple[float, float]) -> None:
    """Adjudicated at one rate, and four times as often where scores are high."""
    passed = []
    for seed in range(30):
        found = _scored_apart(2_400, 0.99, seed=seed)
        chance_F = np.linspace(*share, 2_400)
        seen_F = np.random.default_rng(seed).random(2_400) < chance_F
        passed.append(_result(_looked_at(found, seen_F), "tier-block").state == "pass")
    assert np.mean(passed) >= 0.9


def test_few_adjudicated_near_the_threshold_are_few() -> None:
    found = _scored_apart(2_000)
    rows = np.arange(2_000)
    result = _result(_looked_at(found, (rows < 1_000) | (rows % 90 == 89)), "tier-block")
    assert result.state == "not_certified"
    assert result.checks[0].estimate.detail["effective"] < 59


def test_truth_nobody_confirmed_is_no_adjudicated_one() -> None:
    found = _scored_apart(1_200)
    unknown_NP = found.truth_NP.copy()
    unknown_NP[600:1_200, 0] = -1
    results = [
        _result(_looked_at(replace(found, truth_NP=truth_NP), np.arange(1_200) < 600), "tier-block")
        for truth_NP in (found.truth_NP, unknown_NP)
    ]
    assert [one.state for one in results] == ["not_certified"] * 2
    assert results[0].reason == results[1].reason


def test_thinned_false_flags_count_for_all_they_stand_for() -> None:
    found = flagged_traffic(600, 1.0)
    truth_NP, weight = found.truth_NP.copy(), found.weight.copy()
    truth_NP[0], weight[0] = 0, 60.0
    result = _result(replace(found, truth_NP=truth_NP, weight=weight), "tier-block")
    assert result.checks[0].estimate.value == pytest.approx(599 / 659)
    assert result.state != "pass"


def test_unreachable_tier_is_blocked() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), review=0.2, tag=0.9999)
    result = _result(found, "tiers-reachable")
    assert result.state == "fail"
    assert "never reached: tag" in result.reason


@pytest.mark.parametrize("gate", TIERS)
def test_set_without_a_row_never_passes(gate: str) -> None:
    empty = with_rows(flagged_traffic(400, 1.0), np.arange(0))
    assert _result(empty, gate).state == "no_data"


def test_allow_must_be_reachable() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), review=0.0005)
    result = _result(found, "tiers-reachable")
    assert result.state == "fail"
    assert "no listing at all is allowed" in result.reason
    assert _result(found, "review-volume").blocks


def test_tier_that_will_be_capped_is_not_called_unreachable() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), review=0.2, suspend=0.99999)
    judgement = judged(found, *TIERS)
    states = {result.gate.id: result.state for result in judgement.results}
    assert states["tiers-reachable"] == "pass"
    assert judgement.caps == {"weapons": "block"}


def test_imported_table_says_nothing_of_review_volume() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), review=0.0005)
    imported = replace(found, adjudicated_NP=np.zeros_like(found.adjudicated_NP))
    assert _result(found, "review-volume").state != "no_data"
    result = _result(imported, "review-volume")
    assert (result.state, result.blocks) == ("no_data", True)
    assert "an imported table is no sample of uploads" in result.reason


def test_review_volume_is_weighted() -> None:
    found = flagged_traffic(400, 1.0)
    estimate = _result(found, "review-volume").checks[0].estimate
    share = 400 / (800 + 6_000 * 60)
    assert estimate.value == pytest.approx(100_000 * share)
    assert estimate.spread is not None
    assert estimate.spread.low(0.95) < 100_000 * share < estimate.spread.high(0.95)


def test_capped_tiers_fall_to_review() -> None:
    found = flagged_traffic(400, 0.5)
    volumes = judged(found, *TIERS).results[-1].checks[0].estimate.detail["volumes"]
    assert volumes["block"] == volumes["suspend"] == 0
    assert volumes["review"] == pytest.approx(100_000 * 800 / (800 + 6_000 * 60))


def test_volume_is_not_certain_when_nothing_was_reviewed() -> None:
    found = _thresholds(flagged_traffic(400, 1.0), block=0.97)
    estimate = _result(found, "review-volume").checks[0].estimate
    assert estimate.value == 0
    assert estimate.spread is not None
    assert estimate.spread.high(0.95) > 20


@pytest.mark.parametrize("gate", TIERS)
def test_score_that_is_no_number_never_passes(gate: str) -> None:
    found = flagged_traffic(400, 1.0)
    bad = with_candidate(found, np.full_like(found.candidate.log_odds_NP, np.nan))
    assert _result(bad, gate).state == "no_data"
