"""Embedding of a snapshot: every distinct image and text goes once through the towers, and never again after that.

The cache is keyed by tower and content, so a day costs only its new listings. Violating training rows get all
augmented views; the other training rows get one, so that augmentation itself says nothing about the truth; rows that
only judge are read as they were submitted.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from moderation.augment import image_view, text_view
from moderation.embedded_rows import ABSENT, EmbeddedBatch, EmbeddedRows, write_rows
from moderation.embedding_cache import EmbeddingCache, Vector
from moderation.embedding_plan import Contents, Plan, plan_embedding, text_key
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.errors import InvalidListing
from moderation.image import decode
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.snapshot import Snapshot
from moderation.text import model_text

__all__ = ["EmbeddedBatch", "EmbeddedRows", "Embedder", "EmbeddingCache", "embed_snapshot"]

# Contents between two commits of the cache: an interrupted run loses at most this many.
_CHUNK: Final = 128

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Embedder:
    """The two encoders and the cache in front of them."""

    image: ImageEncoder
    text: TextEncoder
    cache: EmbeddingCache

    @classmethod
    def open(cls, towers: Path, cache: Path, num_threads: int = 1) -> "Embedder":
        """Return the exported towers in a folder, behind the cache file `cache`."""
        return cls(
            ImageEncoder(towers / IMAGE_FOLDER, num_threads),
            TextEncoder(towers / TEXT_FOLDER, num_threads),
            EmbeddingCache(cache),
        )


def embed_snapshot(
    snapshot: Snapshot,
    read_blob: Callable[[str], bytes],
    embedder: Embedder,
    *,
    folder: Path,
    num_views: int,
    progress: Progress | None = None,
) -> EmbeddedRows:
    """Return the embeddings of every row of `snapshot`, written to `folder`.

    Args:
        snapshot: its images are named by digest.
        read_blob: gives the bytes of an image by digest.
        embedder: only what its cache lacks is computed.
        folder: replaced as a whole once everything is there.
        num_views: views of a violating training row, the unchanged one included.
        progress: called with (embeddings done, embeddings in all).

    Returns:
        the memory-mapped rows; an image that cannot be decoded counts as missing, in `info["undecodable"]`.
    """
    plan = plan_embedding(snapshot, num_views)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".embeddings-", dir=folder.parent))
    try:
        total = sum(plan.images.num_views) + sum(plan.texts.num_views)
        done = _Counter(total, progress)
        bad = _embed_images(plan, read_blob, embedder, staging, done)
        _embed_texts(plan, snapshot, embedder, staging, done)
        is_bad_NK = np.isin(plan.image_content_NK, sorted(bad))
        info = {
            "image_tower": embedder.image.digest,
            "text_tower": embedder.text.digest,
            "snapshot": snapshot.digest,
            "images": len(plan.images.numbers),
            "texts": len(plan.texts.numbers),
            "undecodable": len(bad),
            "tuned_fold": embedder.image.facts.get("tuned_fold"),
        }
        arrays = {
            "image_content_NK": np.where(is_bad_NK, np.int32(ABSENT), plan.image_content_NK),
            "image_offset_C": plan.images.offsets(),
            "text_content_N": plan.text_content_N,
            "text_offset_C": plan.texts.offsets(),
            "num_views_N": plan.num_views_N,
        }
        write_rows(staging, info, arrays)
        if folder.exists():
            shutil.rmtree(folder)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return EmbeddedRows.open(folder)


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, num: int) -> None:
        self._done += num
        if self._progress is not None:
            self._progress(self._done, self._total)


def _seed_of(key: bytes) -> int:
    """Augmentation is a function of the content: the same content is always augmented the same way."""
    return int.from_bytes(key[:4], "big")


def _embed_images(
    plan: Plan,
    read_blob: Callable[[str], bytes],
    embedder: Embedder,
    folder: Path,
    done: _Counter,
) -> set[int]:
    """Write `images_ED.npy`; return the contents that cannot be decoded."""

    def compute(key: bytes, views: Sequence[int]) -> list[Vector]:
        try:
            image = decode(read_blob(key.hex()))
        except InvalidListing:
            return [np.empty(0, np.float32)] * len(views)
        seed = _seed_of(key)
        return [
            embedder.image.encode_one(image_view(image, v, seed) if v else image) for v in views
        ]

    keys = iter([(key, None) for key in plan.images.numbers])
    writer = _Writer(plan.images, embedder.image, embedder.cache, folder / "images_ED.npy")
    return writer.write(keys, lambda key, _, views: compute(key, views), done)


def _embed_texts(
    plan: Plan, snapshot: Snapshot, embedder: Embedder, folder: Path, done: _Counter
) -> None:
    """Write `texts_ED.npy`; texts are read again, each where it first appears."""

    def texts() -> Iterator[tuple[bytes, Any]]:
        row = known = 0
        for batch in snapshot.batches(["title", "description"]):
            for listing in batch.to_pylist():
                if plan.text_content_N[row] == known:
                    known += 1
                    text = (listing["title"], listing["description"])
                    yield text_key(*text), text
                row += 1

    def compute(key: bytes, text: tuple[str, str], views: Sequence[int]) -> list[Vector]:
        seed = _seed_of(key)
        varied = [text_view(*text, v, seed) if v else text for v in views]
        return [embedder.text.encode_one(model_text(*pair)) for pair in varied]

    writer = _Writer(plan.texts, embedder.text, embedder.cache, folder / "texts_ED.npy")
    writer.write(texts(), compute, done)


class _Writer:
    """Fills one memory-mapped array of embeddings from the cache, computing what it lacks."""

    def __init__(
        self,
        contents: Contents,
        encoder: ImageEncoder | TextEncoder,
        cache: EmbeddingCache,
        path: Path,
    ) -> None:
        self._contents, self._encoder, self._cache, self._path = contents, encoder, cache, path
        self._tower = encoder.cache_key
        self._offsets = contents.offsets()

    def write(
        self,
        items: Iterator[tuple[bytes, Any]],
        compute: Callable[[bytes, Any, Sequence[int]], list[Vector]],
        done: _Counter,
    ) -> set[int]:
        """Write every content in order; return the numbers of those without a vector."""
        # A memory map cannot be empty: without any content one row of zeros stands there, which nothing points to.
        shape = (max(int(self._offsets[-1]), 1), self._encoder.dim)
        array_ED = np.lib.format.open_memmap(self._path, "w+", np.float32, shape)
        bad: set[int] = set()
        for chunk in _chunks(items):
            vectors = self._chunk(chunk, compute, done)
            for (key, _), found in zip(chunk, vectors, strict=True):
                number = self._contents.numbers[key]
                for view, vector in found.items():
                    if vector.size:
                        array_ED[self._offsets[number] + view] = vector
                    else:
                        bad.add(number)
        array_ED.flush()
        return bad

    def _chunk(
        self,
        chunk: Sequence[tuple[bytes, Any]],
        compute: Callable[[bytes, Any, Sequence[int]], list[Vector]],
        done: _Counter,
    ) -> list[dict[int, Vector]]:
        found: list[dict[int, Vector]] = []
        missing: list[tuple[int, list[int]]] = []
        for place, (key, _) in enumerate(chunk):
            num_views = self._contents.num_views[self._contents.numbers[key]]
            cached = {v: self._cache.get(self._tower, key, v) for v in range(num_views)}
            found.append({v: vector for v, vector in cached.items() if vector is not None})
            lacking = [v for v, vector in cached.items() if vector is None]
            done.add(len(found[-1]))
            if lacking:
                missing.append((place, lacking))
        tasks = [(*chunk[place], views) for place, views in missing]
        fresh = []
        results = self._encoder.each(lambda task: compute(*task), tasks)
        for (place, views), vectors in zip(missing, results, strict=True):
            found[place].update(zip(views, vectors, strict=True))
            fresh += [(chunk[place][0], v, x) for v, x in zip(views, vectors, strict=True)]
            done.add(len(views))
        self._cache.put(self._tower, fresh)
        return found


def _chunks(items: Iterator[tuple[bytes, Any]]) -> Iterator[list[tuple[bytes, Any]]]:
    chunk: list[tuple[bytes, Any]] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
