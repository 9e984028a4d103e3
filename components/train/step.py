"""Snapshot and embeddings -> members of the ensemble, and what each says of rows that it did not see."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moderation.embedded_rows import EmbeddedRows
from moderation.profiles import HeadsConfig
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from moderation.training import train


@dataclass(frozen=True)
class TrainInputs:
    """Where the inputs of a training lie."""

    table: str
    embeddings: str
    config: str


def run(inputs: TrainInputs, seed: int, *, out: str) -> dict[str, float]:
    """Write the members and their signals to `out`; return how many rows taught and were scored."""
    snapshot = Snapshot.open(Path(inputs.table))
    rows = EmbeddedRows.open(Path(inputs.embeddings))
    config = HeadsConfig.model_validate_json(Path(inputs.config).read_bytes())
    return _counts(train(snapshot, rows, Path(out), config, seed))


def _counts(table: SignalTable) -> dict[str, float]:
    is_train_N = table.role == "train"
    scored_N = np.isfinite(table.ngram_NP).any(axis=1) | np.isfinite(table.image_NP).any(axis=1)
    return {
        "train_rows": float(is_train_N.sum()),
        "out_of_fold_rows": float((is_train_N & (table.fold >= 0)).sum()),
        "scored_rows": float(scored_N.sum()),
        **{
            f"{policy}_train_positives": float((table.truth_NP[is_train_N, p] == 1).sum())
            for p, policy in enumerate(table.policies)
        },
    }
