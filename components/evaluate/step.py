"""Bundle and test rows -> figures, report, and what the pipeline's dashboard draws."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt

from components.evaluate.parity import check_parity
from components.home import Home
from components.policies import read_policies
from ledger.store import ContentStore
from moderation.behaviour_prefilter import PrefilterEvidence
from moderation.bundle import Bundle
from moderation.bundle_checks import PREFILTER
from moderation.decision import tier_of
from moderation.ensemble import Ensemble
from moderation.evaluation.baseline import baseline_scores
from moderation.evaluation.judgement import Subject
from moderation.evaluation.metrics import confusion, roc_points
from moderation.evaluation.report import evaluate
from moderation.policy import Tier
from moderation.settings import settings
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from moderation.thresholds import SolvedThresholds, load_solved

_CATEGORIES: Final = ("clean", "violates")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EvaluateInputs:
    """Where the inputs of an evaluation lie."""

    table: str
    model: str
    release: str
    home: str


@dataclass(frozen=True)
class Done:
    """What the dashboard draws."""

    metrics: dict[str, float]
    roc: Sequence[tuple[float, float, float]]
    """Of the worst policy of a listing against a violation of any."""

    categories: Sequence[str]
    confusion: Sequence[Sequence[float]]
    """Weighted counts: what a listing is, against whether it would be held for review or stopped."""


def run(inputs: EvaluateInputs, policies: str, seed: int, *, report: str, figures: str) -> Done:
    """Judge the bundle on the test rows; write the HTML report and the figures as JSON.

    Raises:
        PermanentError: if the bundle does not answer what training computed: it must not be served.
    """
    snapshot, bundle = Snapshot.open(Path(inputs.table)), Bundle.open(Path(inputs.release))
    signals = SignalTable.load(Path(inputs.model) / "signals.npz")
    ensemble = Ensemble.load(bundle.folder / "ensemble.json")
    solved = load_solved(bundle.folder / "thresholds.json")
    read_blob = ContentStore(Home(Path(inputs.home)).content).get
    apart = check_parity(bundle, snapshot, signals, read_blob, num_threads=settings().num_threads)
    file = read_policies(policies)
    subject = Subject(
        signals,
        ensemble,
        file,
        solved,
        baseline_NP=baseline_scores(snapshot, file, read_blob),
        facts={
            "bundle": bundle.digest[:16],
            "snapshot": snapshot.digest[:16],
            "cut-off": f"{snapshot.cut_off:%Y-%m-%d %H:%M} UTC",
            "split": snapshot.mode,
            "behaviour prefilter": _prefilter(bundle),
        },
    )
    with TemporaryDirectory() as folder:
        found = evaluate(subject, Path(folder), seed=seed)
        for name, target in (("report.html", report), ("metrics.json", figures)):
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(folder) / name, target)
    test = signals.select("test")
    roc, counts = _pooled(test, ensemble.combine(*test.natural()), solved)
    return Done(found["metrics"] | {"serving_parity": apart}, roc, _CATEGORIES, counts)


def _prefilter(bundle: Bundle) -> str:
    path = bundle.folder / PREFILTER
    return str(PrefilterEvidence.load(path)) if path.is_file() else "none"


def _pooled(
    test: SignalTable, probability_NP: Floats, solved: Sequence[SolvedThresholds]
) -> tuple[list[tuple[float, float, float]], list[list[float]]]:
    """Return ROC points and confusion over all policies at once, on rows whose truth is whole."""
    violates_N = (test.truth_NP == 1).any(axis=1)
    known_N = violates_N | (test.truth_NP >= 0).all(axis=1)
    truth_N = violates_N[known_N].astype(np.int8)
    weight_N = test.weight[known_N]
    probability_NP = probability_NP[known_N]
    curve = roc_points(probability_NP.max(axis=1), truth_N, weight_N)
    flagged_N = np.array(
        [_is_held(row_P, solved) for row_P in probability_NP.tolist()], bool
    ).reshape(-1)
    points = [(float(f), float(t), float(limit)) for f, t, limit in zip(*curve, strict=True)]
    return points, confusion(flagged_N, truth_N, weight_N)


def _is_held(probability_P: Sequence[float], solved: Sequence[SolvedThresholds]) -> bool:
    tiers = (tier_of(p, policy.open) for p, policy in zip(probability_P, solved, strict=True))
    return max(tiers) >= Tier.REVIEW
