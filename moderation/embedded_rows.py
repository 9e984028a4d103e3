"""Embeddings of a snapshot's rows, memory-mapped: written once, read in batches by row index.

N rows, K image slots, B rows of a batch, D embedding width, E stored embeddings, C distinct contents. Equal images
and equal texts are stored once; view 0 is the content as it was submitted, the others are augmented.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from moderation.errors import InvalidSnapshot

ABSENT: Final = -1
_ARRAYS: Final = (
    "images_ED",
    "texts_ED",
    "image_content_NK",
    "image_offset_C",
    "text_content_N",
    "text_offset_C",
    "num_views_N",
)

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddedBatch:
    """Embeddings of B rows; an absent image or text is a row of zeros with a False mask."""

    images_BKD: npt.NDArray[np.float32]
    image_mask_BK: npt.NDArray[np.bool_]
    text_BD: npt.NDArray[np.float32]
    has_text_B: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PackedBatch:
    """Embeddings of B rows with I images in all, in the order of the True slots of the mask."""

    images_ID: npt.NDArray[np.float32]
    image_mask_BK: npt.NDArray[np.bool_]
    text_BD: npt.NDArray[np.float32]
    has_text_B: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class EmbeddedRows:
    """The embeddings of a snapshot; only the rows of a batch are read into memory."""

    folder: Path
    info: dict[str, Any]
    """Digests of the towers, counts (`undecodable` images, distinct `images` and `texts`), and `tuned_fold`: the fold
    that the towers were tuned on, None for frozen ones."""

    images_ED: npt.NDArray[np.float32]
    texts_ED: npt.NDArray[np.float32]
    image_content_NK: npt.NDArray[np.int32]
    image_offset_C: npt.NDArray[np.int64]
    text_content_N: npt.NDArray[np.int32]
    text_offset_C: npt.NDArray[np.int64]
    num_views_N: npt.NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path) -> "EmbeddedRows":
        """Return the rows in `folder`, memory-mapped.

        Raises:
            InvalidSnapshot: if the folder holds no finished embeddings.
        """
        try:
            info = json.loads((folder / "info.json").read_text())
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        except (OSError, ValueError) as error:
            raise InvalidSnapshot(
                f"{folder} holds no finished embeddings: {error}; embed the snapshot again"
            ) from error
        return cls(folder=folder, info=info, **arrays)

    @property
    def num_rows(self) -> int:
        """N, in the order of the snapshot."""
        return len(self.text_content_N)

    @property
    def image_dim(self) -> int:
        """Width of an image embedding."""
        return int(self.images_ED.shape[1])

    @property
    def text_dim(self) -> int:
        """Width of a text embedding."""
        return int(self.texts_ED.shape[1])

    @property
    def num_images_N(self) -> npt.NDArray[np.int64]:
        """Images per row that could be decoded."""
        is_there_NK = np.asarray(self.image_content_NK) != ABSENT
        count_N: npt.NDArray[np.int64] = np.count_nonzero(is_there_NK, axis=1).astype(np.int64)
        return count_N

    @property
    def has_text_N(self) -> npt.NDArray[np.bool_]:
        """Whether a row has any text."""
        return cast(npt.NDArray[np.bool_], np.asarray(self.text_content_N) != ABSENT)

    def batch(self, index_B: Indices, views_B: Indices | None = None) -> EmbeddedBatch:
        """Return the embeddings of the rows `index_B`.

        Args:
            index_B: rows of the snapshot, in any order, repeats allowed.
            views_B: view of each row, 0 where None; a view that a row lacks falls back to view 0.
        """
        packed = self.packed(index_B, views_B)
        mask_BK = packed.image_mask_BK
        images_BKD = np.zeros((*mask_BK.shape, self.image_dim), np.float32)
        images_BKD[mask_BK] = packed.images_ID
        return EmbeddedBatch(images_BKD, mask_BK, packed.text_BD, packed.has_text_B)

    def packed(self, index_B: Indices, views_B: Indices | None = None) -> PackedBatch:
        """Return the embeddings of the rows `index_B` without empty image slots; see `batch`."""
        if views_B is None:
            views_B = np.zeros(len(index_B), np.int64)
        views_B = np.where(views_B < self.num_views_N[index_B], views_B, 0)
        content_BK = self.image_content_NK[index_B]
        mask_BK = content_BK != ABSENT
        view_I = np.broadcast_to(views_B[:, None], content_BK.shape)[mask_BK]
        images_ID = self.images_ED[self.image_offset_C[content_BK[mask_BK]] + view_I]
        content_B = self.text_content_N[index_B]
        has_text_B = content_B != ABSENT
        text_BD = np.zeros((len(index_B), self.text_dim), np.float32)
        text_BD[has_text_B] = self.texts_ED[
            self.text_offset_C[content_B[has_text_B]] + views_B[has_text_B]
        ]
        return PackedBatch(np.asarray(images_ID), mask_BK, text_BD, has_text_B)


def write_rows(folder: Path, info: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write the small arrays beside the embeddings, and `info.json` last: it marks a finished folder."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "info.json").write_text(json.dumps(info, indent=1, sort_keys=True))
