"""The evaluation of one bundle: `metrics.json` for machines and `report.html` for a newcomer.

Nothing is chosen here: thresholds and weights were fixed on other rows before.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from moderation.evaluation import page
from moderation.evaluation.bootstrap import DEFAULT_RESAMPLES
from moderation.evaluation.judgement import BASELINE, ENSEMBLE, EVASIVE, Subject, judge_all
from moderation.evaluation.plain import without_nan

MAX_HTML_BYTES: Final = 300_000
"""What the pipeline's page viewer shows; beyond it details of later policies are left to the JSON."""

Record = dict[str, Any]

_TIER_CHIPS: Final = {
    "certified": ("open", "good"),
    "by_share": ("open by share", "warn"),
    "closed": ("closed", "mute"),
}
_VERDICT_CHIPS: Final = {"better": "good", "tie": "mute", "worse": "bad"}
_ORDER: Final = (BASELINE, "behaviour", "ngram", "text", "image", "fusion", ENSEMBLE)


def evaluate(
    subject: Subject, out_folder: Path, *, seed: int, num_resamples: int = DEFAULT_RESAMPLES
) -> Record:
    """Judge the test rows; write `metrics.json` and `report.html` into `out_folder`.

    Args:
        subject: signals, ensemble, thresholds, baseline and lineage.
        out_folder: is made where it is missing.
        seed: of the resamples.
        num_resamples: of groups, for every interval.

    Returns:
        What `metrics.json` holds: `metrics` (flat numbers), `policies` (every figure), `test`, `facts`.

    Raises:
        InvalidSnapshot: if there is no test row, or the policies disagree.
    """
    policies = judge_all(subject, seed=seed, num_resamples=num_resamples)
    is_test = subject.signals.role == "test"
    figures: Record = {
        "facts": dict(subject.facts),
        "test": {
            "rows": int(is_test.sum()),
            "groups": len(set(subject.signals.group[is_test].tolist())),
            "weight": float(subject.signals.weight[is_test].sum()),
            "resamples": num_resamples,
        },
        "metrics": flat_metrics(policies),
        "policies": policies,
    }
    figures = without_nan(figures)
    out_folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1, allow_nan=False)
    (out_folder / "metrics.json").write_text(text, encoding="utf-8")
    (out_folder / "report.html").write_text(render(figures), encoding="utf-8")
    return figures


def flat_metrics(policies: Mapping[str, Record]) -> dict[str, float]:
    """Return the figures that a registry lists, by name; what is undefined is left out."""
    flat: dict[str, float] = {}
    for policy, found in policies.items():
        flat[f"{policy}.prevalence"] = found["prevalence"]
        for name, figure in found["average_precision"].items():
            flat[f"{policy}.ap.{name.replace(' ', '_')}"] = figure["value"]
        for part in found["slices"]:
            if part["slice"] == EVASIVE:
                flat[f"{policy}.ap_evasive"] = part["average_precision"][ENSEMBLE]["value"]
        calibration = found["calibration"]
        flat[f"{policy}.calibration_slope"] = calibration["slope"]
        ratio = calibration["predicted_over_observed"]["value"]
        flat[f"{policy}.predicted_over_observed"] = ratio
        for tier, evidence in found["tiers"].items():
            flat[f"{policy}.{tier}.open"] = float(evidence["status"] != "closed")
            if evidence["test"] is not None:
                flat[f"{policy}.{tier}.precision"] = evidence["test"]["precision"]["value"]
                flat[f"{policy}.{tier}.recall"] = evidence["test"]["recall"]["value"]
    return {name: float(value) for name, value in flat.items() if math.isfinite(value)}


def render(figures: Record) -> str:
    """Return the page of an evaluation, at most `MAX_HTML_BYTES` long."""
    policies: dict[str, Record] = figures["policies"]
    for num_detailed in range(len(policies), -1, -1):
        detailed = [_details(*item) for item in list(policies.items())[:num_detailed]]
        if num_detailed < len(policies):
            detailed.append("<p>Details of further policies are in metrics.json.</p>")
        text = page.document("Evaluation", [_head(figures), *detailed])
        if len(text.encode()) <= MAX_HTML_BYTES:
            break
    return text


def _head(figures: Record) -> str:
    test, policies = figures["test"], figures["policies"]
    facts = " · ".join(
        f"{page.escape(name)} <code>{page.escape(value)}</code>"
        for name, value in figures["facts"].items()
    )
    links = "".join(
        f'<a href="#{page.escape(policy)}">{page.escape(policy)}</a>' for policy in policies
    )
    return (
        "<h1>How good is this model?</h1>"
        f"<p>Judged on <b>{test['rows']:,}</b> listings that it never saw, of {test['groups']:,} sellers "
        f"and campaigns, standing for {test['weight']:,.0f} uploads. Every figure is weighted to real "
        "traffic; ranges are 95 % intervals over sellers and campaigns. Nothing was chosen on these "
        f"listings.</p><p class=soft>{facts}</p><nav>{links}</nav>"
        f'<div class="tiles">{"".join(_policy_tile(*item) for item in policies.items())}</div>'
        "<p class=soft>PR-AUC is the average precision of the ranking: a random one scores the "
        "prevalence, a perfect one 1. The same model scores lower where violations are rarer.</p>"
    )


def _policy_tile(policy: str, found: Record) -> str:
    own, base = (found["average_precision"].get(name) for name in (ENSEMBLE, BASELINE))
    beside = f"{page.number(base['value'])} by keywords and hashes" if base else "no baseline given"
    opened = [tier for tier, evidence in found["tiers"].items() if evidence["status"] != "closed"]
    return page.tile(
        policy,
        f"{page.number(own['value'])} <small class=soft>PR-AUC</small>",
        f"<div>{beside}</div><div>at prevalence {page.percent(found['prevalence'])}</div>"
        f"<div>open: {page.escape(', '.join(opened) or 'no tier')}</div>",
    )


def _details(policy: str, found: Record) -> str:
    return "".join(
        [
            f'<h2 id="{page.escape(policy)}">{page.escape(policy)}</h2>',
            f"<p>{found['positives']:,} violations among {found['rows']:,} test listings; "
            f"{page.percent(found['prevalence'])} of real traffic.</p>",
            "<h3>Ranking: PR-AUC of the ensemble, its parts and the baseline</h3>",
            _ranking_table(found),
            "<h3>Where it could break</h3>",
            _slice_table(found),
            "<h3>Tiers: what may be decided alone</h3>"
            "<p class=soft>A tier opens where a lower bound shows its precision on other listings than "
            "these; one that cannot be shown stays closed. Flags of one seller, or under negatives that stand "
            "for many, are worth less. The last columns are what the tier did here.</p>",
            _tier_table(found),
            '<div class="pair"><div><h3>Are the probabilities true?</h3>',
            _calibration_text(found["calibration"]),
            page.reliability(found["calibration"]["bins"]),
            "</div><div><h3>False flags at review, by number of images</h3>"
            "<p class=soft>The worst image decides, so that more images have more chances to err.</p>",
            _image_table(found),
            "<h3>When a modality is missing</h3>",
            _modality_table(found),
            "</div></div>",
        ]
    )


def _names(figures: Mapping[str, Any]) -> list[str]:
    return [name for name in _ORDER if name in figures]


def _ranking_table(found: Record) -> str:
    figures, against = found["average_precision"], found["against"]
    names = _names(figures)
    rows = []
    for name in names:
        figure = figures[name]
        lead = against.get(name)
        rows.append(
            [
                page.escape(name),
                page.whisker(figure, strong=name == ENSEMBLE),
                page.interval(figure),
                f"{figure['rows']:,}",
                "" if lead is None else page.interval(lead),
                "" if lead is None else page.chip(lead["verdict"], _VERDICT_CHIPS[lead["verdict"]]),
            ]
        )
    heads = ["score", "0 to 1", "#PR-AUC", "#rows it answers", "#ensemble's lead there", "so it is"]
    return page.table(heads, rows, own_row=names.index(ENSEMBLE))


def _slice_table(found: Record) -> str:
    if not found["slices"]:
        return "<p class=soft>The data names no slices (evasion, unseen sellers, ...).</p>"
    rows = []
    for part in found["slices"]:
        figures = part["average_precision"]
        singles = [name for name in _names(figures) if name not in (ENSEMBLE, BASELINE)]
        best = max(singles, key=lambda name: figures[name]["value"] or 0.0, default=None)
        base = figures.get(BASELINE)
        rows.append(
            [
                page.escape(part["slice"]),
                f"{part['positives']:,}",
                page.percent(part["prevalence"]),
                page.whisker(figures[ENSEMBLE], strong=True),
                page.interval(figures[ENSEMBLE]),
                f"{page.number(figures[best]['value'])} {page.escape(best)}" if best else "",
                page.number(base["value"]) if base else "n/a",
            ]
        )
    heads = [
        "slice",
        "#violations",
        "#prevalence",
        "0 to 1",
        "#ensemble",
        "#best part",
        "#baseline",
    ]
    return page.table(heads, rows)


def _tier_table(found: Record) -> str:
    rows = []
    for tier, evidence in reversed(found["tiers"].items()):
        done = evidence["test"]
        word, kind = _TIER_CHIPS[evidence["status"]]
        shown = f"{evidence['lower_bound']:.3f} of {evidence['bound']:.3f}"
        rows.append(
            [
                page.escape(tier),
                page.chip(word, kind),
                "" if evidence["threshold"] is None else page.number(evidence["threshold"], 4),
                page.escape(shown),
                page.escape(evidence["reason"])
                or f"{evidence['errors']:,} errors in {evidence['flags']:,} flags",
                "" if done is None else page.interval(done["precision"]),
                "" if done is None else page.percent(done["recall"]["value"]),
                "" if done is None else page.percent(done["share"]["value"]),
            ]
        )
    heads = [
        "tier",
        "state",
        "#from",
        "#shown of wanted",
        "why",
        "#precision here",
        "#recall",
        "#of traffic",
    ]
    return page.table(heads, rows)


def _calibration_text(found: Record) -> str:
    ratio = found["predicted_over_observed"]
    return (
        f"<p>Predicted over observed violations: {page.interval(ratio, 2)}. Slope "
        f"{page.number(found['slope'], 2)} (1 is right; below it scores are overconfident), "
        f"shift {page.number(found['shift'], 2)} (0 is right).</p>"
    )


def _image_table(found: Record) -> str:
    rows = [
        [
            str(row["images"]),
            f"{row['negatives']:,}",
            f"{row['false_flags']:,}",
            page.percent(row["fpr"]),
        ]
        for row in found["images"]
    ]
    return page.table(["images", "#allowed listings", "#false flags", "#rate"], rows)


def _modality_table(found: Record) -> str:
    rows = []
    for row in found["modalities"]:
        fit = row.get("origin", "")
        rows.append(
            [
                page.escape(row["pattern"]),
                f"{row['rows']:,}",
                page.number(row.get("average_precision")),
                page.number(row.get("predicted_over_observed"), 2),
                page.escape("" if fit == "fitted" else fit),
            ]
        )
    heads = ["only", "#rows", "#PR-AUC", "#predicted / observed", "answered by"]
    return page.table(heads, rows)
