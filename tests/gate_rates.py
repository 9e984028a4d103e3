"""How often gates on fairness, calibration and tiers pass good candidates and block bad ones, by simulation.

Run as `python -m tests.gate_rates [seeds]`; tests take its worlds. N rows, P policies.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from moderation.gates import calibrated, fairness, intersections, tiers
from moderation.gates.evidence import Answers, ScoredSet, digest_rows
from moderation.gates.judging import Judgement, judge
from moderation.release import ReleaseContract
from tests.gate_world import CANDIDATE, CHAMPION, POLICIES, contract_of, evidence_of, with_candidate

REGISTERED = (calibrated, fairness, intersections, tiers)

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int8]
Flags = npt.NDArray[np.bool_]

SLICES = {
    "language": (["en", "de", "pl"], [0.5, 0.3, 0.2]),
    "region": (["north", "south", "east"], [0.5, 0.3, 0.2]),
    "category": (["outdoor", "fashion", "toys", "phones"], [0.3, 0.3, 0.2, 0.2]),
    "seller_age": (["new", "young", "old"], [0.3, 0.3, 0.4]),
    "seller_size": (["small", "medium", "large"], [0.5, 0.3, 0.2]),
    "price_band": (["low", "mid", "high"], [0.34, 0.33, 0.33]),
}
FAIRNESS = ("fair-true-positives", "fair-false-positives", "fair-intersections")
CALIBRATION = (
    "calibration-slope-low",
    "calibration-slope-high",
    "calibration-shift-low",
    "calibration-shift-high",
    "calibration-overall-low",
    "calibration-overall-high",
    "calibration-in-review-low",
    "calibration-in-review-high",
    "calibration-by-slice-low",
    "calibration-by-slice-high",
)
TIERS = ("tier-review", "tier-block", "tier-suspend", "tiers-reachable", "review-volume")

_REVIEW, _BLOCK, _SUSPEND = 0.2, 0.97, 0.998
_THRESHOLDS = {
    policy: {"review": _REVIEW, "block": _BLOCK, "suspend": _SUSPEND} for policy in POLICIES
}
_THINNED = 60
_CENTRE, _SPREAD = -13.0, 4.5
"""Of log-odds: violations at about 1:250 under each policy."""

_SELLER_SHARE = 0.3
"""Of the variance that a seller's listings share."""


def sized_set(
    num_positives: int, *, found: float = 0.85, flagged: float = 0.04, seed: int = 0
) -> ScoredSet:
    """Return a golden set with so many violations under each policy, four innocent rows to each, and fair rates.

    Evasive violations are found less often, and `pl` has more of them: that alone is not unfair.
    """
    rng = np.random.default_rng(seed)
    num_rows = num_positives * len(POLICIES) * 2
    truth_NP = np.zeros((num_rows, len(POLICIES)), np.int8)
    truth_NP[np.arange(num_rows) // 2, np.arange(num_rows) // 2 % len(POLICIES)] = 1
    truth_NP[num_rows // 2 :] = 0
    group_N = rng.permutation(num_rows) // 3
    slices = {
        name: rng.choice(words, num_rows, p=shares) for name, (words, shares) in SLICES.items()
    }
    evasive_N = rng.random(num_rows) < np.where(slices["language"] == "pl", 0.5, 0.2)
    slices["evasive"] = np.where(truth_NP.any(axis=1), np.where(evasive_N, "evasive", "plain"), "")
    chance_NP = np.where(truth_NP == 1, (found - 0.25 * evasive_N)[:, None], flagged)
    return _answered(rng, "golden", chance_NP, truth_NP, group_N, slices)


def _answered(
    rng: np.random.Generator,
    name: str,
    chance_NP: Floats,
    truth_NP: Codes,
    group_N: npt.NDArray[np.int64],
    slices: dict[str, npt.NDArray[np.str_]],
) -> ScoredSet:
    """Return a set whose rows are flagged at their chance, alike within a group."""
    shape = truth_NP.shape
    shared_NP = rng.normal(size=shape)[group_N] * np.sqrt(_SELLER_SHARE)
    luck_NP = shared_NP + rng.normal(size=shape) * np.sqrt(1 - _SELLER_SHARE)
    is_hit_NP = special.ndtr(luck_NP) < chance_NP
    probability_NP = np.where(is_hit_NP, 0.5 + 0.4 * rng.random(shape), 0.1 * rng.random(shape))
    return _set(name, probability_NP, truth_NP, group_N, np.ones(len(truth_NP)), slices)


def _set(
    name: str,
    probability_NP: Floats,
    truth_NP: Codes,
    group_N: npt.NDArray[np.int64],
    weight_N: Floats,
    slices: dict[str, npt.NDArray[np.str_]],
) -> ScoredSet:
    item_id = np.array([f"{name}-{row}" for row in range(len(truth_NP))])
    log_odds_NP = np.log(probability_NP) - np.log1p(-probability_NP)
    return ScoredSet(
        name=name,
        digest=digest_rows(item_id, truth_NP, weight_N),
        policies=POLICIES,
        item_id=item_id,
        seller_id=np.char.add("seller-", group_N.astype(str)),
        group=group_N,
        weight=weight_N,
        truth_NP=truth_NP,
        adjudicated_NP=np.ones(truth_NP.shape, bool),
        num_images=np.ones(len(truth_NP), np.int64),
        candidate=Answers(CANDIDATE, probability_NP, log_odds_NP, _THRESHOLDS),
        champion=None,
        slices=slices,
    )


def broken_language(found: ScoredSet, gap: float, *, seed: int = 0) -> ScoredSet:
    """Return the set with the candidate finding so many fewer violations in one language."""
    rng = np.random.default_rng(seed)
    hit_NP = found.candidate.probability_NP >= _REVIEW
    there_N = found.slices["language"] == "pl"
    violates_NP = found.truth_NP == 1
    rate = float(hit_NP[violates_NP & there_N[:, None]].mean())
    lost_NP = violates_NP & there_N[:, None] & hit_NP & (rng.random(hit_NP.shape) < gap / rate)
    return with_candidate(found, np.where(lost_NP, -4.0, found.candidate.log_odds_NP))


def calibrated_traffic(
    num_uploads: int = 300_000, *, thinned: int = _THINNED, seed: int = 0
) -> ScoredSet:
    """Return thinned traffic whose scores are right: each row violates with its probability.

    What review would take is kept, as is what was reported; of the rest one in `thinned` was audited.
    """
    rng = np.random.default_rng(seed)
    group_N = rng.integers(0, num_uploads // 3, num_uploads)
    shape = (num_uploads, len(POLICIES))
    shared_NP = rng.normal(size=shape)[group_N] * np.sqrt(_SELLER_SHARE)
    log_odds_NP = _CENTRE + _SPREAD * (
        shared_NP + rng.normal(size=shape) * np.sqrt(1 - _SELLER_SHARE)
    )
    truth_NP = (rng.random(shape) < 1 / (1 + np.exp(-log_odds_NP))).astype(np.int8)
    flagged_N = (log_odds_NP > np.log(_REVIEW / (1 - _REVIEW)) - 1.5).any(axis=1)
    audited_N = rng.random(num_uploads) < 1 / thinned
    kept = np.flatnonzero(flagged_N | audited_N)
    weight_N = np.where(flagged_N, 1.0, thinned)[kept]
    slices = {
        name: rng.choice(words, len(kept), p=shares) for name, (words, shares) in SLICES.items()
    }
    probability_NP = 1 / (1 + np.exp(-np.clip(log_odds_NP[kept], -35, 35)))
    return _set("traffic", probability_NP, truth_NP[kept], group_N[kept], weight_N, slices)


def _of_one_policy(found: ScoredSet) -> ScoredSet:
    """Return the set with the other policies' columns left out."""
    candidate, champion = (
        answers
        and replace(
            answers,
            probability_NP=answers.probability_NP[:, :1],
            log_odds_NP=answers.log_odds_NP[:, :1],
        )
        for answers in (found.candidate, found.champion)
    )
    assert candidate is not None
    return replace(
        found,
        policies=found.policies[:1],
        candidate=candidate,
        champion=champion,
        truth_NP=found.truth_NP[:, :1],
        adjudicated_NP=found.adjudicated_NP[:, :1],
    )


def flagged_traffic(
    num_flags: int,
    precision: float,
    *,
    size: int = 1,
    alike: float = 0.0,
    thinned: int = _THINNED,
    seed: int = 0,
) -> ScoredSet:
    """Return traffic in which one policy flags so many listings at a true precision, in campaigns of `size`.

    `alike` is the correlation of truth within a campaign. Of 400 more that are reviewed half violate; 6,000 are
    allowed and stand for `thinned` uploads each.
    """
    rng = np.random.default_rng(seed)
    num_reviewed, num_allowed = 400, 6_000
    campaign_F = np.arange(num_flags) // size
    copies_F = rng.random(num_flags) < np.sqrt(alike)
    common_F = (rng.random(num_flags) < precision)[campaign_F]
    right_F = np.where(copies_F, common_F, rng.random(num_flags) < precision)
    reviewed_V = rng.random(num_reviewed) < 0.5
    num_rows = num_flags + num_reviewed + num_allowed
    truth_NP = np.zeros((num_rows, len(POLICIES)), np.int8)
    truth_NP[:num_flags, 0], truth_NP[num_flags : num_flags + num_reviewed, 0] = right_F, reviewed_V
    levels = np.repeat([0.999, 0.5, 0.001], [num_flags, num_reviewed, num_allowed])
    probability_NP = np.full(truth_NP.shape, 0.001)
    probability_NP[:, 0] = levels
    group_N = np.concatenate([campaign_F, np.arange(num_rows - num_flags) + num_flags])
    weight_N = np.where(levels > 0.1, 1.0, float(thinned))
    found = _set("traffic", probability_NP, truth_NP, group_N, weight_N, {})
    sellers = np.char.add("seller-", np.arange(num_rows).astype(str))
    return _of_one_policy(replace(found, seller_id=sellers))


def enriched_and_deployed(seed: int = 0) -> tuple[ScoredSet, ScoredSet]:
    """Return the same classifier (finds .9, flags .002) with a fifth of violations, and on traffic at 1:1000."""
    rng = np.random.default_rng(seed)

    def scored(num_positives: int, num_negatives: int, weight: float) -> ScoredSet:
        truth_N = np.repeat([1, 0], [num_positives, num_negatives])
        hits = [
            np.arange(n) < round(n * share)
            for n, share in ((num_positives, 0.9), (num_negatives, 0.002))
        ]
        hit_N = np.concatenate([rng.permutation(one) for one in hits])
        probability_NP = np.full((len(truth_N), len(POLICIES)), 0.001)
        probability_NP[hit_N, 0] = 0.99
        truth_NP = np.zeros(probability_NP.shape, np.int8)
        truth_NP[:, 0] = truth_N
        weight_N = np.where(truth_N == 1, 1.0, weight)
        found = _set("traffic", probability_NP, truth_NP, np.arange(len(truth_N)), weight_N, {})
        return _of_one_policy(found)

    return scored(1_000, 4_000, 1.0), scored(300, 30_000, 10.0)


def with_log_odds(found: ScoredSet, change: Callable[[Floats], Floats]) -> ScoredSet:
    """Return the set with the candidate's log-odds changed."""
    return with_candidate(found, change(found.candidate.log_odds_NP))


@lru_cache
def held_replay(policies: tuple[str, ...], num_flags: int = 100_000, new: int = 0) -> ScoredSet:
    """Return recorded decisions all of which the candidate makes the strongest; `new` of them had been let through."""
    shape = (num_flags, len(POLICIES))
    truth_NP = np.full(shape, -1, np.int8)
    sure_NP = np.full(shape, 0.9999)
    found = _set("replay", sure_NP, truth_NP, np.arange(num_flags), np.ones(num_flags), {})
    recorded_NP = np.full(shape, 0.5)
    recorded_NP[:new] = 0.001
    recorded = replace(found.candidate, bundle=CHAMPION, probability_NP=recorded_NP)
    whole = replace(found, champion=recorded)
    return whole if policies == POLICIES else _of_one_policy(whole)


def judged(
    found: ScoredSet, *gates: str, resamples: int = 400, seed: int = 0, replay: bool = True
) -> Judgement:
    """Return the judgement of some gates of the shipped contract, with few resamples.

    Args:
        found: the set.
        gates: their ids.
        resamples: of the contract.
        seed: of the resamples.
        replay: whether recorded decisions show that nothing flagged had been let through.
    """
    sets = (found, held_replay(found.policies)) if replay else (found,)
    return judge(evidence_of(*sets), _contract(gates, resamples), seed=seed)


@lru_cache
def _contract(gates: tuple[str, ...], resamples: int) -> ReleaseContract:
    whole = contract_of(*gates)
    risk = whole.risk.model_copy(update={"resamples": resamples})
    chosen = tuple(gate for gate in whole.gates if gate.id in gates)
    return whole.model_copy(update={"risk": risk, "gates": chosen})


@dataclass(frozen=True)
class Trial:
    """One kind of candidate, judged again and again."""

    name: str
    make: Callable[[int], ScoredSet]
    gates: tuple[str, ...]


def rates(trial: Trial, seeds: range) -> dict[str, float]:
    """Return how often any gate of a trial failed, and how often all passed and no tier was closed."""
    seen = [judged(trial.make(seed), *trial.gates, seed=seed) for seed in seeds]
    states = [{result.state for result in one.results} for one in seen]
    return {
        "certified": float(np.mean([one.is_passing and not one.caps for one in seen])),
        "fails": float(np.mean(["fail" in one for one in states])),
    }


def _flags(num_flags: int, precision: float, **campaigns: float) -> Callable[[int], ScoredSet]:
    def make(seed: int) -> ScoredSet:
        return flagged_traffic(num_flags, precision, seed=seed, **campaigns)  # type: ignore[arg-type]

    return make


TRIALS = (
    Trial("good: fair, 300 violations", lambda seed: sized_set(300, seed=seed), FAIRNESS),
    Trial("good: fair, 1,000", lambda seed: sized_set(1_000, seed=seed), FAIRNESS),
    Trial("good: fair, 1,200", lambda seed: sized_set(1_200, seed=seed), FAIRNESS),
    Trial(
        "bad: one language .25 worse",
        lambda seed: broken_language(sized_set(1_000, seed=seed), 0.25),
        FAIRNESS,
    ),
    Trial("good: calibrated, audits 1:60", lambda seed: calibrated_traffic(seed=seed), CALIBRATION),
    Trial(
        "good: calibrated, audits 1:20",
        lambda seed: calibrated_traffic(thinned=20, seed=seed),
        CALIBRATION,
    ),
    Trial(
        "bad: log-odds x 2",
        lambda seed: with_log_odds(calibrated_traffic(seed=seed), lambda x_NP: 2 * x_NP),
        CALIBRATION,
    ),
    Trial("good: 2,000 flags at .9985", _flags(2_000, 0.9985), TIERS),
    Trial("block: 660 flags at .97", _flags(660, 0.97), ("tier-block",)),
    Trial("suspend: 299 sellers at 1", _flags(299, 1.0), ("tier-suspend",)),
    Trial("suspend: 640 sellers at .998", _flags(640, 0.998), ("tier-suspend",)),
    Trial("bad: 600 flags at .94, alone", _flags(600, 0.94), ("tier-block",)),
    Trial("bad: 600 at .94, alike .5", _flags(600, 0.94, size=20, alike=0.5), ("tier-block",)),
    Trial("bad: 600 at .94, alike 1", _flags(600, 0.94, size=20, alike=1.0), ("tier-block",)),
)


def lines(num_seeds: int) -> Iterator[str]:
    """Yield the table of rates."""
    yield f"{'candidate':30} certified    fails"
    for trial in TRIALS:
        found = rates(trial, range(num_seeds))
        yield f"{trial.name:30} {found['certified']:8.3f} {found['fails']:8.3f}"


if __name__ == "__main__":
    for line in lines(int(sys.argv[1]) if len(sys.argv) > 1 else 200):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
