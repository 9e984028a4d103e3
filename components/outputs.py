"""How a step hands its results on: metrics that leave a file, curves with plain floats, folders that share bytes."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Artifact(Protocol):
    """The part of any pipeline artefact that is used here."""

    path: str
    metadata: dict[str, Any]


class MetricsArtifact(Artifact, Protocol):
    """The part of a pipeline's metrics artefact that is used here."""

    def log_metric(self, metric: str, value: float) -> None:
        """Record one number."""
        ...


class CurveArtifact(Artifact, Protocol):
    """The part of a pipeline's classification artefact that is used here."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Record a ROC curve."""
        ...

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Record a confusion matrix."""
        ...


def log_metrics(metrics: MetricsArtifact, values: Mapping[str, float]) -> None:
    """Record every number, and write them to the artefact's file as well.

    Without a file the local runner's cache takes the artefact for a lost one and runs the step again.
    """
    plain = {name: float(value) for name, value in values.items()}
    for name, value in plain.items():
        metrics.log_metric(name, value)
    _write_json(metrics.path, plain)


def log_record(artifact: Artifact, values: Mapping[str, str]) -> None:
    """Record facts that are not numbers, in the artefact and in its file."""
    artifact.metadata.update(values)
    _write_json(artifact.path, dict(values))


def log_roc(roc: CurveArtifact, points: Sequence[tuple[float, float, float]]) -> None:
    """Record a ROC curve of (false-positive rate, true-positive rate, threshold) points."""
    rates = [[float(point[axis]) for point in points] for axis in range(3)]
    roc.log_roc_curve(*rates)
    _write_json(roc.path, roc.metadata)


def log_confusion(
    confusion: CurveArtifact, categories: Sequence[str], matrix: Sequence[Sequence[float]]
) -> None:
    """Record a confusion matrix of truth (rows) against what was decided (columns), rounded to counts."""
    counts = [[round(float(cell)) for cell in row] for row in matrix]
    confusion.log_confusion_matrix(list(categories), counts)
    _write_json(confusion.path, confusion.metadata)


def place_folder(source: Path, target: Path) -> None:
    """Make `target` hold the files of `source`, sharing their bytes where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link_or_copy)
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _write_json(path: str, content: object) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
