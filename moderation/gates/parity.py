"""The parity gate: may an engine answer in the place of the reference one? Judged on real rows that both have scored.

N rows, P policies. Rows are those of the bundle's own snapshot that its members were not fitted on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from moderation.attestation import PARITY, Statement, Verdict
from moderation.decision import Thresholds
from moderation.engines.engine import EngineFacts
from moderation.errors import BundleRejected
from moderation.evaluation.bootstrap import GroupBootstrap, Ranking, paired_difference
from moderation.gates.deciding import strongest_tiers
from moderation.rescoring import LazyItem, answering
from moderation.scores import ScoringItem
from moderation.scoring import Scorer
from moderation.serving_rules import ParityRules

Floats = npt.NDArray[np.float64]

_CHUNK: Final = 64
"""Listings whose images are in memory at once."""

ROWS: Final = "parity-rows"


@dataclass(frozen=True)
class ParityRows:
    """Real listings with what is known about them."""

    items: Sequence[LazyItem]
    truth_NP: npt.NDArray[np.int8]
    """1, 0, or -1 where unknown; columns as the bundle has its policies."""

    weight_N: Floats
    group_N: npt.NDArray[np.int64]
    """Seller and campaign: what a resample draws."""

    digest: str
    """Of ids, truth and weights."""


@dataclass(frozen=True)
class Compared:
    """What both engines said of the same rows."""

    reference_NP: Floats
    engine_NP: Floats
    policies: tuple[str, ...]
    thresholds: Thresholds


def compare(reference: Scorer, other: Scorer, rows: ParityRows) -> Compared:
    """Return what two engines with the same bundle say of `rows`, each scored as it serves, without any cache.

    Raises:
        BundleRejected: if the two are not the same bundle, or one does not answer with numbers.
    """
    if reference.digest != other.digest:
        raise BundleRejected(
            f"{other.digest[:12]} and {reference.digest[:12]} are two bundles; compare engines on one"
        )
    found = [_answers(scorer, rows.items) for scorer in (reference, other)]
    return Compared(found[0], found[1], other.policies, other.thresholds)


def judge_parity(
    compared: Compared,
    rows: ParityRows,
    rules: ParityRules,
    *,
    resamples: int,
    seed: int,
) -> tuple[tuple[Verdict, ...], dict[str, float | None]]:
    """Return the verdicts on an engine, and the figures behind them.

    Args:
        compared: answers of the reference and of the engine.
        rows: what was answered.
        rules: limits; an engine that is not shown to keep to them is refused.
        resamples: draws of whole groups behind each bound of a precision.
        seed: of the draws.
    """
    num_rows = len(rows.items)
    figures: dict[str, float | None] = {"rows": float(num_rows)}
    if num_rows < rules.min_rows:
        said = f"{num_rows} rows, {rules.min_rows} needed: score more real listings"
        return (Verdict(gate=ROWS, verdict="no_data", reason=said),), figures
    verdicts = [Verdict(gate=ROWS, verdict="pass", reason=f"{num_rows} rows")]
    difference_NP = np.abs(compared.reference_NP - compared.engine_NP)
    worst, usual = float(difference_NP.max()), float(np.quantile(difference_NP, rules.quantile))
    figures |= {"max_difference": worst, "quantile_difference": usual}
    verdicts.append(_at_most("parity-max-difference", worst, rules.max_difference))
    verdicts.append(_at_most("parity-quantile-difference", usual, rules.quantile_difference))
    verdicts.append(_flips(compared, rules, figures))
    verdicts.extend(_losses(compared, rows, rules, figures, (resamples, seed)))
    return tuple(verdicts), figures


def parity_statement(
    facts: EngineFacts,
    rows: ParityRows,
    contract: str,
    verdicts: tuple[Verdict, ...],
    figures: Mapping[str, float | None],
) -> Statement:
    """Return what is attested about an engine: bound to its facts, the contract and the rows."""
    return Statement(
        kind=PARITY,
        contract=contract,
        sets={"parity": rows.digest},
        verdicts=verdicts,
        metrics=dict(figures),
        engine=facts,
    )


def _answers(scorer: Scorer, items: Sequence[LazyItem]) -> Floats:
    with answering(f"engine {scorer.engine}"):
        return np.concatenate([scorer.score(chunk).probability_NP for chunk in _chunks(items)])


def _chunks(items: Sequence[LazyItem]) -> Iterator[list[ScoringItem]]:
    for begin in range(0, len(items), _CHUNK):
        yield [
            ScoringItem(
                title=item.title,
                description=item.description,
                images=[image.load() for image in item.images],
                behaviour=item.behaviour,
                behaviour_status=item.behaviour_status,
            )
            for item in items[begin : begin + _CHUNK]
        ]


def _flips(compared: Compared, rules: ParityRules, figures: dict[str, float | None]) -> Verdict:
    """Return the verdict on the share of listings that come to another tier, by its exact upper bound."""
    before_N, after_N = (
        strongest_tiers(probability_NP, compared.policies, compared.thresholds)
        for probability_NP in (compared.reference_NP, compared.engine_NP)
    )
    num_rows, flips = len(before_N), int((before_N != after_N).sum())
    # Clopper and Pearson 1934, upper side.
    bound = (
        1.0
        if flips == num_rows
        else special.betaincinv(flips + 1, num_rows - flips, rules.confidence)
    )
    figures |= {"tier_flips": flips / num_rows, "tier_flips_bound": float(bound)}
    return _bounded("parity-tier-flips", flips / num_rows, float(bound), rules.tier_flips)


def _losses(
    compared: Compared,
    rows: ParityRows,
    rules: ParityRules,
    figures: dict[str, float | None],
    draws: tuple[int, int],
) -> Iterator[Verdict]:
    """Yield the verdict on the average precision that each policy loses, by a paired bound."""
    resamples, seed = draws
    bootstrap = GroupBootstrap.of(rows.group_N, num_resamples=resamples, seed=seed)
    for column, policy in enumerate(compared.policies):
        name, truth_N = f"parity-precision-{policy}", rows.truth_NP[:, column]
        known_N, positives = truth_N >= 0, int((truth_N == 1).sum())
        if positives < rules.min_positives:
            said = f"{positives} violations, {rules.min_positives} needed: score more real listings"
            yield Verdict(gate=name, verdict="no_data", reason=said)
            continue
        own = bootstrap.take(known_N)
        reference, engine = (
            Ranking.of(
                probability_NP[known_N, column], truth_N[known_N], rows.weight_N[known_N], own
            )
            for probability_NP in (compared.reference_NP, compared.engine_NP)
        )
        loss = paired_difference(reference, engine, own, confidence=2 * rules.confidence - 1)
        figures |= {f"loss/{policy}": loss.value, f"loss_bound/{policy}": loss.high}
        yield _bounded(name, loss.value, loss.high, rules.precision_loss)


def _at_most(name: str, value: float, limit: float) -> Verdict:
    kept: Literal["pass", "fail"] = "pass" if value <= limit else "fail"
    return Verdict(gate=name, verdict=kept, reason=f"{value:.4g}, at most {limit:g}")


def _bounded(name: str, value: float, bound: float, limit: float) -> Verdict:
    """Return `pass` only where the bound keeps to the limit; `fail` where the figure itself does not."""
    kept: Literal["pass", "fail", "not_certified"] = "pass" if bound <= limit else "not_certified"
    kept = "fail" if value > limit else kept
    return Verdict(
        gate=name, verdict=kept, reason=f"{value:.4g}, surely below {bound:.4g}, at most {limit:g}"
    )
