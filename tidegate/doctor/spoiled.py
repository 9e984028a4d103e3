"""Drawn evidence of bad candidates: the same world, one fault each, and the gates that must not pass it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from moderation.gates.evidence import Evidence, Floats, ScoredSet
from moderation.leaks import Leak, LeakCheck
from tidegate.doctor.drawn import SNAPSHOT, THRESHOLDS, UNSURE, attacks, costs, with_answers

Spoil = Callable[[Evidence, np.random.Generator], Evidence]
Change = Callable[[ScoredSet, np.random.Generator], Floats]

_ALL_SETS: Final = ("golden", "traffic", "fresh", "replay")


def _everywhere(change: Change) -> Spoil:
    def spoil(evidence: Evidence, rng: np.random.Generator) -> Evidence:
        for name in _ALL_SETS:
            evidence = with_answers(evidence, name, change(evidence.sets[name], rng))
        return evidence

    return spoil


def _right(found: ScoredSet) -> Floats:
    return found.candidate.log_odds_NP


def _noisy(found: ScoredSet, rng: np.random.Generator) -> Floats:
    return _right(found) + rng.normal(0, 20.0, found.truth_NP.shape)


def _scaled(factor: float) -> Spoil:
    return _everywhere(lambda found, _: _right(found) * factor)


def _shifted(by: float) -> Spoil:
    return _everywhere(lambda found, _: _right(found) + by)


def _lost_in(name: str, value: str, share: float) -> Spoil:
    """Return the fault of missing a share of the violations of one slice value."""

    def change(found: ScoredSet, rng: np.random.Generator) -> Floats:
        lost_N = (found.slices[name] == value) & (rng.random(found.num_rows) < share)
        return np.where((found.truth_NP == 1) & lost_N[:, None], -6.0, _right(found))

    return _everywhere(change)


def _lost_unnamed(name: str, one_in: int) -> Spoil:
    """Return the fault of missing the violations of those sellers, one in some, who do not name what is sliced by."""

    def spoil(evidence: Evidence, _: np.random.Generator) -> Evidence:
        for set_name in _ALL_SETS:
            found = evidence.sets[set_name]
            silent_N = found.group % one_in == 0
            values_N = np.where(silent_N, "", found.slices[name])
            unnamed = replace(found, slices={**found.slices, name: values_N})
            evidence = replace(evidence, sets={**evidence.sets, set_name: unnamed})
            lost_NP = (found.truth_NP == 1) & silent_N[:, None]
            said_NP = np.where(lost_NP, -6.0, _right(found))
            evidence = with_answers(evidence, set_name, said_NP)
        return evidence

    return spoil


def _suspected_in(name: str, value: str, share: float) -> Spoil:
    """Return the fault of suspecting a share of the innocent rows of one slice value."""

    def change(found: ScoredSet, rng: np.random.Generator) -> Floats:
        hit_N = (found.slices[name] == value) & (rng.random(found.num_rows) < share)
        return np.where((found.truth_NP == 0) & hit_N[:, None], 1.5, _right(found))

    return _everywhere(change)


def _tiers(**tiers: float) -> Spoil:
    def spoil(evidence: Evidence, _: np.random.Generator) -> Evidence:
        for name in _ALL_SETS:
            evidence = with_answers(evidence, name, _right(evidence.sets[name]), **tiers)
        return evidence

    return spoil


def _sunk(by: float, review: float) -> Spoil:
    """Return the fault of predicting far too little, with tiers that open all the same."""

    def spoil(evidence: Evidence, _: np.random.Generator) -> Evidence:
        for name in _ALL_SETS:
            said_NP = _right(evidence.sets[name]) - by
            evidence = with_answers(evidence, name, said_NP, review=review, tag=review)
        return evidence

    return spoil


def _tied(found: ScoredSet, rng: np.random.Generator) -> Floats:
    """Return another model of the champion's quality (A/A): as large an error, and independent of the champion's."""
    return _right(found) + rng.normal(0, UNSURE, found.truth_NP.shape)


def _attacked(hidden: float, suspected: float) -> Spoil:
    def spoil(evidence: Evidence, rng: np.random.Generator) -> Evidence:
        found = attacks(evidence.sets["golden"], rng, hidden=hidden, suspected=suspected)
        return replace(evidence, attacks=tuple(found))

    return spoil


def _hidden_by_one(evidence: Evidence, _: np.random.Generator) -> Evidence:
    """Let the first attack hide every violation of the first policy."""
    first, *others = evidence.attacks
    said_RP = first.candidate_RP.copy()
    said_RP[evidence.sets["golden"].truth_NP[first.row_R, 0] == 1, 0] = 0.01
    return replace(evidence, attacks=(replace(first, candidate_RP=said_RP), *others))


def _unbeaten(evidence: Evidence, _: np.random.Generator) -> Evidence:
    return replace(
        evidence,
        attacks=tuple(
            replace(one, candidate_RP=np.full_like(one.candidate_RP, 0.99))
            if one.family == "white_box"
            else one
            for one in evidence.attacks
        ),
    )


def _leaked(evidence: Evidence, _: np.random.Generator) -> Evidence:
    leak = Leak("golden-0", "submission-0", "id")
    return replace(evidence, leaks=LeakCheck(SNAPSHOT, 5_000, (leak,)))


def _slow(evidence: Evidence, rng: np.random.Generator) -> Evidence:
    return replace(evidence, costs=costs(rng, slower=20.0))


def _large(evidence: Evidence, _: np.random.Generator) -> Evidence:
    assert evidence.costs is not None
    return replace(evidence, costs=replace(evidence.costs, candidate_bytes=2**40))


def _replayed(share: float, tier_log_odds: float) -> Spoil:
    """Return the fault of deciding a share of yesterday's traffic more strictly."""

    def spoil(evidence: Evidence, rng: np.random.Generator) -> Evidence:
        found = evidence.sets["replay"]
        said_NP = _right(found).copy()
        said_NP[rng.random(found.num_rows) < share, 0] = tier_log_odds
        return with_answers(evidence, "replay", said_NP)

    return spoil


def _let_through(share: float) -> Spoil:
    """Return the fault of letting through a share of what was held yesterday under one policy."""

    def spoil(evidence: Evidence, rng: np.random.Generator) -> Evidence:
        found = evidence.sets["replay"]
        assert found.champion is not None
        held_N = found.champion.probability_NP[:, 0] >= THRESHOLDS["review"]
        said_NP = _right(found).copy()
        said_NP[held_N & (rng.random(found.num_rows) < share), 0] = -6.0
        return with_answers(evidence, "replay", said_NP)

    return spoil


def _prefiltered(share: float) -> Spoil:
    """Return the fault of letting a share of the traffic pass without a score."""

    def spoil(evidence: Evidence, rng: np.random.Generator) -> Evidence:
        found = evidence.sets["traffic"]
        said = replace(found.candidate, lets_go_N=rng.random(found.num_rows) < share)
        changed = replace(found, candidate=said)
        return replace(evidence, sets=dict(evidence.sets) | {"traffic": changed})

    return spoil


SPOILED: Final[dict[str, tuple[Spoil, tuple[str, ...]]]] = {
    "leak": (_leaked, ("no-leak",)),
    "noise": (
        _everywhere(_noisy),
        (
            "golden-average-precision",
            "golden-recall-at-block",
            "golden-recall-at-suspend",
            "not-worse-on-golden",
            "better-on-golden",
        ),
    ),
    "tie": (_everywhere(_tied), ("better-on-golden", "better-on-fresh-truth")),
    "a language lost": (
        _lost_in("language", "es", 0.4),
        ("not-worse-in-any-language", "fair-true-positives"),
    ),
    "a language let go": (_lost_in("language", "es", 0.9), ("replay-by-segment-down",)),
    "lost where no language is named": (
        _lost_unnamed("language", 10),
        ("fair-true-positives", "fair-intersections"),
    ),
    "evasion lost": (_lost_in("evasive", "evasive", 0.4), ("not-worse-on-evasion",)),
    "a region suspected": (
        _suspected_in("region", "west", 0.25),
        ("fair-false-positives", "fair-intersections", "replay-by-segment"),
    ),
    "hidden by attacks": (_attacked(0.7, 0.0), ("attacks-worst-recall", "attacks-mean-recall")),
    "a policy hidden by one attack": (_hidden_by_one, ("attacks-worst-recall-by-policy",)),
    "suspected under attack": (
        _attacked(0.1, 0.7),
        ("attacks-worst-false-positives", "attacks-mean-false-positives"),
    ),
    "unbeaten": (_unbeaten, ("attacks-white-box-works",)),
    "log-odds times 3": (_scaled(3), ("calibration-slope-low",)),
    "log-odds by 3": (_scaled(1 / 3), ("calibration-slope-high",)),
    "log-odds minus 2": (_shifted(-2.0), ("calibration-shift-high",)),
    "log-odds plus 2": (_shifted(2.0), ("calibration-shift-low",)),
    "log-odds minus 10": (
        _sunk(10.0, 1e-3),
        ("calibration-overall-low", "calibration-in-review-low", "calibration-by-slice-low"),
    ),
    "log-odds plus 13": (
        _shifted(13.0),
        ("calibration-overall-high", "calibration-in-review-high", "calibration-by-slice-high"),
    ),
    "review of almost all": (
        _tiers(review=1e-7),
        ("tier-review", "review-volume", "replay-shift-up"),
    ),
    "all tiers at .005": (
        _tiers(review=5e-3, block=5e-3, suspend=5e-3),
        ("tier-block", "tier-suspend"),
    ),
    "review beyond certainty": (_tiers(review=1.0 + 1e-9), ("tiers-reachable",)),
    "6 % held": (_replayed(0.06, 2.0), ("replay-shift-up",)),
    "5 % blocked": (_replayed(0.05, 9.0), ("replay-shift-block",)),
    "replay shows a few newly suspended": (_replayed(0.018, 9.0), ("tier-suspend",)),
    "3 of 4 held let through": (_let_through(0.75), ("replay-shift-down",)),
    "6 % of violations passed unread": (_prefiltered(0.06), ("prefilter-recall",)),
    "slow": (_slow, ("cost-latency", "cost-latency-ratio")),
    "large": (_large, ("cost-size", "cost-size-growth")),
}
"""Name -> the fault and the gates that must not pass it."""
