"""Changes to one part of a trained bundle, each of which gives a real bundle with one known fault."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.behaviour_prefilter import PrefilterEvidence
from moderation.bundle import Bundle, Description, build
from moderation.decision import SIGNALS
from moderation.ensemble import Ensemble, PatternFit
from moderation.manifest import PLACES
from moderation.ngram import fit_ngram
from moderation.snapshot import Snapshot
from moderation.text import ngram_texts
from moderation.thresholds import SolvedThresholds, load_solved, save_thresholds

_BEYOND_ALL: Final = 1e6

Change = Callable[[Path], None]
"""Changes the files of an unpacked bundle in place."""


def operate(bundle: Bundle, folder: Path, change: Change) -> Bundle:
    """Return a new bundle in `folder`: `bundle` with some of its files changed."""
    with _unpacked(bundle) as parts:
        change(parts)
        paths = {part: parts / place for part, place in PLACES.items() if (parts / place).exists()}
        description = Description(
            policies=bundle.manifest.policies,
            profile=bundle.manifest.profile,
            inputs=bundle.manifest.inputs,
        )
        return build(folder, paths, description)


@contextmanager
def _unpacked(bundle: Bundle) -> Iterator[Path]:
    with TemporaryDirectory(prefix="tidegate-doctor-") as scratch:
        for name in bundle.manifest.files:
            target = Path(scratch) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((bundle.folder / name).read_bytes())
        yield Path(scratch)


def fits(change: Callable[[PatternFit], PatternFit]) -> Change:
    """Return the change of every fit of the ensemble."""

    def apply(parts: Path) -> None:
        path = parts / PLACES["ensemble"]
        ensemble = Ensemble.load(path)
        changed = {bits: tuple(map(change, row)) for bits, row in ensemble.fits.items()}
        replace(ensemble, fits=changed).save(path)

    return apply


def both(first: Change, second: Change) -> Change:
    """Return one change after the other."""

    def apply(parts: Path) -> None:
        first(parts)
        second(parts)

    return apply


def steeper(factor: float) -> Change:
    """Return the change that multiplies every log-odds: above 1 overconfident, below 1 underconfident."""
    return fits(lambda fit: replace(fit, slope=fit.slope * factor, offset=fit.offset * factor))


def shifted(by: float) -> Change:
    """Return the change that adds to every log-odds."""
    return fits(lambda fit: replace(fit, offset=fit.offset + by))


def deaf_to(*members: str) -> Change:
    """Return the change after which the ensemble reads nothing of these members."""
    kept = tuple(name not in members for name in SIGNALS)

    def drop(fit: PatternFit) -> PatternFit:
        total = sum(fit.weights)
        left = [weight * keep for weight, keep in zip(fit.weights, kept, strict=True)]
        # what is left speaks as loud as all did before, else every score would sink to the prior
        scale = total / sum(left) if sum(left) > 0 else 0.0
        return replace(fit, weights=tuple(weight * scale for weight in left))

    return fits(drop)


def thresholds(change: Callable[[Mapping[str, float]], Mapping[str, float]]) -> Change:
    """Return the change of every policy's open tiers."""

    def apply(parts: Path) -> None:
        path = parts / PLACES["thresholds"]
        save_thresholds(path, [_retuned(one, change(one.open)) for one in load_solved(path)])

    return apply


def _retuned(solved: SolvedThresholds, limits: Mapping[str, float]) -> SolvedThresholds:
    tiers = {
        name: replace(
            evidence,
            threshold=limits.get(name),
            status="certified" if name in limits else "closed",
        )
        for name, evidence in solved.tiers.items()
    }
    return SolvedThresholds(solved.policy, solved.confidence, tiers)


@dataclass(frozen=True)
class Lesson:
    """Training rows for a specialist that is fitted anew."""

    texts: list[tuple[str, str]]
    language: npt.NDArray[np.str_]
    is_evasive: npt.NDArray[np.bool_]
    truth_NP: npt.NDArray[np.int8]
    weight_N: npt.NDArray[np.float64]

    @classmethod
    def of(cls, table: Path) -> "Lesson":
        """Return the train rows of a snapshot that have a text."""
        snapshot = Snapshot.open(table)
        rows = [
            row
            for batch in snapshot.batches()
            for row in batch.to_pylist()
            if row["role"] == "train" and (row["title"] or row["description"])
        ]
        tricks = [json.loads(row["attributes"]).get("evasion", "none") for row in rows]
        return cls(
            texts=[(row["title"], row["description"]) for row in rows],
            language=np.array([row["language"] for row in rows]),
            is_evasive=np.array(tricks) != "none",
            truth_NP=np.array([row["truth"] for row in rows], np.int8),
            weight_N=np.array([row["weight"] for row in rows], np.float64),
        )


def text_specialist(table: Path, tell: Callable[[Lesson], npt.NDArray[np.int8]]) -> Change:
    """Return the change that fits the n-gram model anew on another truth about the same texts."""

    def apply(parts: Path) -> None:
        lesson = Lesson.of(table)
        texts = [ngram_texts(*text) for text in lesson.texts]
        model = fit_ngram(texts, tell(lesson), lesson.weight_N, seed=0)
        model.save(parts / PLACES["ngram"])

    return apply


def prefilter_raised(parts: Path) -> None:
    """Change the threshold of the prefilter to one that lets everyone go whom it judges."""
    path = parts / PLACES["prefilter"]
    replace(PrefilterEvidence.load(path), threshold=_BEYOND_ALL).save(path)


def padded(mebibytes: int) -> Change:
    """Return the change that makes the bundle larger by a file that nobody reads."""

    def apply(parts: Path) -> None:
        with (parts / PLACES["ngram"] / "spare.txt").open("wb") as file:
            for _ in range(mebibytes):
                file.write(b" " * 2**20)

    return apply
