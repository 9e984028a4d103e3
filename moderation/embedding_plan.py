"""Which contents a snapshot's embedding needs, each once, and in how many views.

N rows, K image slots, C distinct contents.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.embedded_rows import ABSENT
from moderation.snapshot import Snapshot
from moderation.text import model_text

_MAJORITY_VIEWS: Final = 2


@dataclass
class Contents:
    """Distinct contents of one modality, numbered by first appearance, each with the views that it needs."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    num_views: list[int] = field(default_factory=list)

    def add(self, key: bytes, num_views: int) -> int:
        """Return the number of a content that one more row needs."""
        number = self.numbers.setdefault(key, len(self.numbers))
        if number == len(self.num_views):
            self.num_views.append(num_views)
        self.num_views[number] = max(self.num_views[number], num_views)
        return number

    def offsets(self) -> npt.NDArray[np.int64]:
        """Return where each content's views start among all embeddings."""
        return np.concatenate([[0], np.cumsum(self.num_views, dtype=np.int64)]).astype(np.int64)


@dataclass
class Plan:
    """The contents of both modalities, and which of them each row has."""

    images: Contents
    texts: Contents
    image_content_NK: npt.NDArray[np.int32]
    text_content_N: npt.NDArray[np.int32]
    num_views_N: npt.NDArray[np.uint8]


def plan_embedding(snapshot: Snapshot, num_views: int) -> Plan:
    """Return which contents each row needs, in how many views; texts themselves are not kept."""
    images, texts = Contents(), Contents()
    image_rows: list[npt.NDArray[np.int32]] = []
    text_rows: list[int] = []
    views: list[int] = []
    columns = ["title", "description", "image_digests", "truth", "role"]
    for batch in snapshot.batches(columns):
        for row in batch.to_pylist():
            is_positive = 1 in row["truth"]
            most = num_views if is_positive else min(num_views, _MAJORITY_VIEWS)
            row_views = most if row["role"] == "train" else 1
            views.append(row_views)
            digests = row["image_digests"] or []
            contents = [images.add(bytes.fromhex(d), row_views) for d in digests]
            image_rows.append(np.array(contents, np.int32))
            has_text = bool(model_text(row["title"], row["description"]).strip())
            key = text_key(row["title"], row["description"])
            text_rows.append(texts.add(key, row_views) if has_text else ABSENT)
    num_slots = max([1, *(len(contents) for contents in image_rows)])
    image_content_NK = np.full((len(views), num_slots), ABSENT, np.int32)
    for row, contents_K in enumerate(image_rows):
        image_content_NK[row, : len(contents_K)] = contents_K
    return Plan(
        images,
        texts,
        image_content_NK,
        np.array(text_rows, np.int32),
        np.array(views, np.uint8),
    )


def text_key(title: str, description: str) -> bytes:
    """Return what identifies a text."""
    return hashlib.sha256(json.dumps([title, description]).encode()).digest()
