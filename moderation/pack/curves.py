"""Why: precision against recall on the golden set, and whether probabilities are true on traffic, per policy."""

import numpy as np

from moderation.evaluation import metrics, page
from moderation.gates.evidence import Answers, Evidence, ScoredSet
from moderation.pack.charts import Line, precision_recall
from moderation.pack.words import figure
from moderation.release import ReleaseContract


def curves(evidence: Evidence, contract: ReleaseContract, *, max_policies: int) -> str:
    """Return both drawings per policy; a set that was not taken says why."""
    golden, traffic = evidence.sets.get("golden"), evidence.sets.get("traffic")
    bounds = {
        str(gate.tier): gate.limit
        for gate in contract.gates
        if gate.measure == "tier_precision" and gate.tier is not None
    }
    blocks = [
        f'<h3>{page.escape(policy)}</h3><div class="pair">'
        f"<div>{_ranking(evidence, golden, column, bounds)}</div>"
        f"<div>{_reliability(evidence, traffic, column)}</div></div>"
        for column, policy in enumerate(evidence.policies[:max_policies])
    ]
    left = len(evidence.policies) - len(blocks)
    rest = f"<p class=soft>Curves of {left} more policies were left out to keep the page small.</p>"
    return _INTRO + "".join(blocks) + (rest if left else "")


_INTRO = (
    "<p>Left: how good the ranking is on the golden set. A better model's line lies higher and further to the "
    "right. Dotted lines mark the precision that each tier demands. Right: whether a listing that is called 10 % "
    "likely to violate does so in 10 % of cases, on traffic that the model never saw; dots on the diagonal are "
    "right, below it the model cries wolf, above it misses are played down.</p>"
    '<p class="legend soft"><span class=swatch></span> candidate '
    '<span class="swatch old"></span> champion · both axes of the right drawing are logarithmic, because '
    "violations are rare; an empty dot stands for no violation seen</p>"
)


def missing(evidence: Evidence, name: str) -> str:
    """Return what a part says whose set was not taken."""
    why = evidence.missing.get(name, f"the set {name} is not in the evidence")
    return f'<p class="soft">Not measured: {page.escape(why)}</p>'


def _ranking(
    evidence: Evidence, found: ScoredSet | None, column: int, bounds: dict[str, float]
) -> str:
    if found is None:
        return missing(evidence, "golden")
    known_N = found.truth_NP[:, column] >= 0
    truth_R = found.truth_NP[known_N, column]
    if (
        not (truth_R == 1).any()
        or not np.isfinite(found.candidate.log_odds_NP[known_N, column]).all()
    ):
        return (
            '<p class="soft">Not measured: the golden set has no violation of this policy, or a score is no '
            "number.</p>"
        )

    def line(name: str, answers: Answers, colour: str, dash: str = "") -> tuple[Line, float]:
        score_R, weight_R = answers.log_odds_NP[known_N, column], np.ones(len(truth_R))
        curve = metrics.precision_recall(score_R, truth_R, weight_R)
        return Line(name, curve, colour, dash), metrics.average_precision(
            score_R, truth_R, weight_R
        )

    mine, own = line("candidate", found.candidate, "var(--accent)")
    lines, said = [mine], f"Average precision <b>{figure(own)}</b>"
    if found.champion is not None:
        other, old = line("champion", found.champion, "var(--mute)", "5 4")
        lines, said = [other, mine], f"{said}, champion {figure(old)}"
    share = page.percent(float((truth_R == 1).mean()))
    return (
        f"<p>{said}; {len(truth_R):,} listings, {share} of them violations.</p>"
        f"{precision_recall(lines, bounds)}"
    )


def _reliability(evidence: Evidence, found: ScoredSet | None, column: int) -> str:
    if found is None:
        return missing(evidence, "traffic")
    known_N = found.truth_NP[:, column] >= 0
    truth_R, weight_R = found.truth_NP[known_N, column], found.weight[known_N]
    chance_R = found.candidate.probability_NP[known_N, column]
    if not (truth_R == 1).any() or not np.isfinite(chance_R).all():
        return (
            '<p class="soft">Not measured: no violation of this policy in the traffic, or a score is no '
            "number.</p>"
        )
    bins = metrics.reliability_bins(chance_R, truth_R, weight_R)
    ratio = metrics.predicted_over_observed(chance_R, truth_R, weight_R)
    share = page.percent(float(np.average(truth_R, weights=weight_R)))
    return (
        f"<p>Predicted over counted violations <b>{figure(ratio)}</b>; {share} of real traffic violates "
        f"({int(truth_R.sum()):,} seen among {len(truth_R):,}).</p>{page.reliability(bins)}"
    )
