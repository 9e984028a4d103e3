"""The reference profile of a bundle: aggregates over rows that no member was fitted on, for drift to compare with."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.embedded_rows import EmbeddedRows
from moderation.ensemble import Ensemble
from moderation.evaluation.reference import (
    profile_embeddings,
    profile_features,
    profile_scores,
    save_reference,
)
from moderation.signals import SignalTable
from moderation.snapshot import Snapshot
from moderation.thresholds import SolvedThresholds

_BATCH_ROWS: Final = 256

Floats = npt.NDArray[np.float64]


def write_reference(
    path: Path,
    snapshot: Snapshot,
    embedded: EmbeddedRows,
    signals: SignalTable,
    fitted: tuple[Ensemble, Sequence[SolvedThresholds]],
) -> None:
    """Write the profile of the rows that members have not seen; all rows where there are no others.

    Args:
        path: of the JSON file.
        snapshot: gives behaviour and weights.
        embedded: of the same rows.
        signals: of the same rows, in the same order.
        fitted: ensemble and thresholds of the bundle.
    """
    ensemble, solved = fitted
    index_R = np.flatnonzero(signals.role != "train")
    if not len(index_R):
        index_R = np.arange(signals.num_rows)
    natural = signals.take(index_R).natural()
    weight_R = snapshot.weight[index_R]
    save_reference(
        path,
        {
            "features": profile_features(snapshot.behaviour_NF()[index_R], weight_R),
            "scores": profile_scores(
                ensemble.log_odds(*natural), ensemble.combine(*natural), weight_R, solved
            ),
            "embeddings": profile_embeddings(_embeddings(embedded, index_R, weight_R)),
        },
        num_rows=len(index_R),
    )


def _embeddings(
    embedded: EmbeddedRows, index_R: npt.NDArray[np.int64], weight_R: Floats
) -> Iterator[Mapping[str, tuple[npt.NDArray[np.float32], Floats]]]:
    for begin in range(0, len(index_R), _BATCH_ROWS):
        batch = embedded.batch(index_R[begin : begin + _BATCH_ROWS])
        weight_B = weight_R[begin : begin + _BATCH_ROWS]
        num_images_B = batch.image_mask_BK.sum(axis=1)
        # A listing counts once, however many images it has: as the mean of them.
        mean_BD = batch.images_BKD.sum(axis=1) / np.maximum(num_images_B, 1)[:, None]
        has_image_B = num_images_B > 0
        yield {
            "image": (mean_BD[has_image_B].astype(np.float32), weight_B[has_image_B]),
            "text": (batch.text_BD[batch.has_text_B], weight_B[batch.has_text_B]),
        }
