"""Gates on cost: a slow or large candidate is blocked, one bundle beside itself is not, few timings prove nothing."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from moderation.gates import costs as cost_gates
from moderation.gates import measures
from moderation.gates.evidence import Costs, Evidence, Floats
from moderation.gates.judging import GateResult, judge
from tests.gate_world import contract_of, evidence_of, scored_set

SEED = 3
LATENCY, RATIO, SIZE = "cost-latency", "cost-latency-ratio", "cost-size"
RUNS = json.loads((Path(__file__).parent / "timings_of_one_bundle.json").read_text())
"""The tiny bundle beside itself: ten runs of three rounds of 320 listings, on two cores that four others use."""

assert measures.__all__


def _timings(run: int = 0) -> Costs:
    candidate, champion = (np.array(RUNS[run][f"{side}_ms"]) for side in ("candidate", "champion"))
    return Costs(candidate, 40 * 2**20, champion, 30 * 2**20)


def _evidence(costs: Costs | None) -> Evidence:
    return evidence_of(scored_set(num_rows=60), costs=costs)


def _judged(costs: Costs | None, gate: str, **changes: Any) -> GateResult:
    judged = judge(_evidence(costs), contract_of(gate, **changes), seed=SEED)
    return next(result for result in judged.results if result.gate.id == gate)


def _lognormal(num: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).lognormal(np.log(30), 0.3, num)


def test_one_bundle_beside_itself_passes() -> None:
    """At least 95 % of judgings of recorded timings pass, whichever side is called the candidate."""
    passed, rng = [], np.random.default_rng(1)
    contract = contract_of(RATIO)
    fewer = contract.risk.model_copy(update={"resamples": 500})
    contract = contract.model_copy(update={"risk": fewer})
    for number in range(100):
        found = _timings(number % len(RUNS))
        assert found.champion_ms is not None
        both = np.stack([found.candidate_ms, found.champion_ms])
        rows = rng.integers(0, both.shape[2], both.shape[2])
        first, second = both[:, :, rows][:: rng.choice([-1, 1])]
        same = replace(found, candidate_ms=first, champion_ms=second)
        results = judge(_evidence(same), contract, seed=number).results
        passed += [result.state == "pass" for result in results if result.gate.id == RATIO]
    assert len(passed) == 100
    assert np.mean(passed) >= 0.95


@pytest.mark.parametrize("run", range(0, 10, 3))
def test_slower_candidate_fails_beside_the_champion(run: int) -> None:
    found = _timings(run)
    slow = replace(found, candidate_ms=found.candidate_ms * 5)
    result = _judged(slow, RATIO)
    assert (result.state, result.blocks) == ("fail", True)
    assert result.checks[0].estimate.detail["median_ratio"] == pytest.approx(5, rel=0.2)
    fast = replace(found, candidate_ms=found.candidate_ms / 5)
    assert _judged(fast, RATIO).state == "pass"


def test_slow_tail_fails_though_the_median_is_equal() -> None:
    found = _timings()
    tail = np.where(np.arange(found.candidate_ms.shape[1]) % 20 == 0, 40.0, 1.0)
    result = _judged(replace(found, candidate_ms=found.candidate_ms * tail), RATIO)
    assert result.state == "fail"
    assert result.checks[0].estimate.detail["median_ratio"] < 1.1


def test_ratio_near_its_limit_is_not_decided() -> None:
    found = _timings()
    result = _judged(replace(found, candidate_ms=found.candidate_ms * 1.3), RATIO)
    assert (result.state, result.blocks) == ("not_certified", True)
    assert "it would take" in result.reason


def test_latency_is_held_to_its_limit() -> None:
    assert _judged(Costs(_lognormal(320), 1, None, None), LATENCY).state == "pass"
    slow = _judged(Costs(_lognormal(320) * 20, 1, None, None), LATENCY)
    assert (slow.state, slow.blocks) == ("fail", True)


def test_latency_of_few_listings_is_not_certified() -> None:
    result = _judged(Costs(_lognormal(298), 1, None, None), LATENCY, min_rows=100)
    assert (result.state, result.blocks) == ("not_certified", True)
    assert "299 rows" in result.reason
    assert _judged(Costs(_lognormal(299), 1, None, None), LATENCY, min_rows=100).state == "pass"


@pytest.mark.parametrize("gate", [LATENCY, RATIO, SIZE])
def test_costs_block_when_they_were_not_measured(gate: str) -> None:
    result = _judged(None, gate)
    assert (result.state, result.blocks) == ("no_data", True)
    assert "not measured" in result.reason


@pytest.mark.parametrize(
    "champion_ms", [None, np.ones(5), np.zeros(320)], ids=["none", "unpaired", "zero"]
)
def test_ratio_is_no_data_when_latencies_are_not_paired(champion_ms: Floats | None) -> None:
    result = _judged(replace(_timings(), champion_ms=champion_ms), RATIO)
    assert (result.state, result.blocks) == ("no_data", True)


def test_latency_is_no_data_when_nothing_was_timed() -> None:
    empty = Costs(np.empty(0), 1, np.empty(0), 1)
    assert _judged(empty, LATENCY).state == _judged(empty, RATIO).state == "no_data"


def test_size_is_held_to_its_limit() -> None:
    for mebibytes, state in ((600, "pass"), (601, "fail")):
        found = replace(_timings(), candidate_bytes=mebibytes * 2**20)
        assert _judged(found, SIZE).state == state


def test_size_is_compared_when_the_contract_asks() -> None:
    beside: dict[str, Any] = {"versus": "champion", "limit": 15.0}
    assert _judged(_timings(), SIZE, **beside).checks[0].estimate.value == pytest.approx(10)
    assert _judged(_timings(), SIZE, **beside).state == "pass"
    assert _judged(_timings(), SIZE, versus="champion", limit=5.0).state == "fail"
    alone = replace(_timings(), champion_bytes=None)
    assert _judged(alone, SIZE, **beside).state == "no_data"


def test_percentile_bounds_cover_the_truth() -> None:
    """Bounds at 95 % miss the true percentile in at most 5 % of samples, on either side."""
    truth = float(np.exp(np.log(30) + 0.3 * stats.norm.ppf(0.99)))
    spreads = [cost_gates.Percentile(_lognormal(400, seed)) for seed in range(400)]
    above = np.mean([spread.low(0.95) > truth for spread in spreads])
    below = np.mean([spread.high(0.95) < truth for spread in spreads])
    assert max(above, below) <= 0.08  # 5 % and three standard errors
    assert all(one.low(0.95) <= one.value <= one.high(0.95) for one in spreads)


def test_bounds_over_rounds_cover_the_truth() -> None:
    """Whether a listing is as slow in every round or slow anew: bounds miss in little more than 5 % at most."""
    for shared in (0.0, 0.9):
        missed = np.zeros(2)
        for seed in range(300):
            rng = np.random.default_rng(seed)
            own_Kn, of_listing_n = rng.normal(size=(3, 320)), rng.normal(size=320)
            noise_Kn = np.sqrt(shared) * of_listing_n + np.sqrt(1 - shared) * own_Kn
            spread = cost_gates.Rounds(30 * np.exp(0.3 * noise_Kn))
            truth = 30 * np.exp(0.3 * stats.norm.ppf(0.99))
            missed += [spread.low(0.95) > truth, spread.high(0.95) < truth]
        assert (missed / 300).max() <= 0.09  # 5 % and three standard errors


def test_stalls_in_every_round_are_held_and_in_one_are_not() -> None:
    found = _timings(3)
    rng = np.random.default_rng(4)
    stalled_Kn = np.where(rng.random(found.candidate_ms.shape) < 0.02, 2_000.0, 0.0)
    stalling = replace(found, candidate_ms=found.candidate_ms + stalled_Kn)
    assert _judged(stalling, LATENCY).blocks
    assert _judged(stalling, RATIO).blocks
    stalled_Kn[1:] = 0
    burst = replace(found, candidate_ms=found.candidate_ms + stalled_Kn)
    assert _judged(burst, LATENCY).state == _judged(burst, RATIO).state == "pass"


def test_percentile_is_open_when_there_are_few_values() -> None:
    few = cost_gates.Percentile(_lognormal(20))
    assert few.high(0.95) == np.inf
    assert cost_gates.Percentile(_lognormal(1)).low(0.999) == -np.inf
