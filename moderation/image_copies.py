"""Photos that copy golden ones although they were cropped, framed or mirrored, which a PDQ hash does not survive.

Embeddings and colours of the trimmed photos propose pairs, their pixels decide: among photos of groceries, a crop lies
closer to its original (cosine .90 at the fifth percentile of crops to 90 %) than most other photos do, but 14 % of them
have another that close, so that no cosine alone tells copies apart. N rows, G golden rows, D embedding width.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.alignment import (
    ALIGNMENT_VERSION,
    COLOUR_REACH,
    Likeness,
    Outline,
    colours,
    likeness,
    trim,
)
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ENCODING_VERSION, ImageEncoder
from moderation.errors import InvalidListing, PermanentError
from moderation.image import decode

MIN_COSINE: Final = 0.79
"""With the comparison of colours and pixels behind it, it finds 100 % of crops of grocery photos to 90 %, about 90 % of
crops to 80 %, 60 % of crops to 70 %, 99 % of frames of 5 to 20 % and 100 % of mirror images, all as new JPEG files; it
takes 0.3 % of other photos for copies."""

_NEAREST: Final = 3
"""Golden photos per photo whose pixels are compared: other photos of the product may come before the original."""

_MARGIN: Final = 0.01
"""A strict search asks for so much more, so that it finds nothing that the wider one let pass by a rounding."""

_COMPARED: Final = f"likeness-{ALIGNMENT_VERSION}"
"""Stands where the cache has the tower: what is kept is how two images are alike."""

_CHUNK: Final = 128
_BLOCK: Final = 1_024
_OUTLINES: Final = 512

Vectors = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
_COLOURS: Final = len(COLOUR_REACH)
_TINY: Final = 1e-12


@dataclass(frozen=True)
class _Encoded:
    """What was computed of one image; empty where it cannot be read."""

    colours: Vectors
    vector: Vectors
    is_trimmed: bool
    is_kept: bool
    """Whether the cache may keep it: what is lost today may be there tomorrow."""


class ImageCopies:
    """Finds copies among the images of a content store; what was embedded once is cached."""

    def __init__(
        self, encoder: ImageEncoder, cache: EmbeddingCache, read_blob: Callable[[str], bytes]
    ) -> None:
        self._encoder, self._cache, self._read_blob = encoder, cache, read_blob
        self._tower = f"{encoder.digest}:{ENCODING_VERSION}"
        self._inside = f"{self._tower}:inside-{ALIGNMENT_VERSION}"
        self._outline = lru_cache(_OUTLINES)(self._outline_of)
        # Rows come in batches, and all of them are compared with the same golden photos.
        self._golden_looks = lru_cache(1)(self._looks)
        self._compared: list[tuple[bytes, int, Vectors]] = []

    def find(
        self,
        rows: Sequence[Sequence[str]],
        golden: Sequence[Sequence[str]],
        *,
        strict: bool = False,
    ) -> Integers:
        """Return for each row a golden row that one of its images is copied from, -1 where there is none.

        Args:
            rows: digests of each row's images.
            golden: digests of each golden row's images.
            strict: ask for a little more than the usual search does, which finds all that this one finds.
        """
        margin = _MARGIN if strict else 0.0
        first_row = {digest: row for row, found in enumerate(golden) for digest in found}
        names, wanted = sorted(first_row), sorted({d for found in rows for d in found})
        copied: dict[str, int] = {}
        if names and wanted:
            for digest, name in self._near(wanted, names, MIN_COSINE + margin, margin):
                if digest == name or self._likeness(digest, name).is_copy(margin):
                    copied[digest] = first_row[name]
            self._keep_compared()
        hits = [next((copied[d] for d in found if d in copied), -1) for found in rows]
        return np.array(hits, np.int64)

    def _looks(self, digests: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Return colours and one unit vector per image, of what is inside its border; zeros for what cannot be read."""
        colours_NC = np.zeros((len(digests), _COLOURS), np.float32)
        vectors_ND = np.zeros((len(digests), self._encoder.dim), np.float32)
        for begin in range(0, len(digests), _CHUNK):
            chunk = digests[begin : begin + _CHUNK]
            for row, (inside_C, vector_D) in enumerate(self._chunk(chunk), start=begin):
                if vector_D.size:
                    colours_NC[row] = inside_C
                    vectors_ND[row] = vector_D / max(float(np.linalg.norm(vector_D)), _TINY)
        return colours_NC, vectors_ND

    def _near(
        self, wanted: Sequence[str], names: Sequence[str], least: float, margin: float
    ) -> Iterator[tuple[str, str]]:
        """Yield pairs of an image and a golden one near it; sorted by the golden one, whose outline is kept."""
        pairs: list[tuple[int, int]] = []
        nearest = min(_NEAREST, len(names))
        known_GC, known_GD = self._golden_looks(tuple(names))
        for begin in range(0, len(wanted), _BLOCK):
            colours_BC, vectors_BD = self._looks(wanted[begin : begin + _BLOCK])
            cosine_BG = vectors_BD @ known_GD.T
            top_BK = np.argpartition(-cosine_BG, nearest - 1, axis=1)[:, :nearest]
            is_near_BK = np.take_along_axis(cosine_BG, top_BK, axis=1) >= least
            gap_BKC = np.abs(colours_BC[:, None] - known_GC[top_BK])
            is_near_BK &= (gap_BKC <= COLOUR_REACH * (1 - margin)).all(axis=2)
            for row, slot in np.argwhere(is_near_BK).tolist():
                pairs.append((int(top_BK[row, slot]), begin + row))
        for place, row in sorted(pairs):
            yield wanted[row], names[place]

    def _likeness(self, digest: str, name: str) -> Likeness:
        """Return how two images are alike; what was compared once is cached, as float32 from the first time on."""
        key = hashlib.sha256(f"{digest}:{name}".encode()).digest()
        known = self._cache.get(_COMPARED, key, 0)
        if known is None:
            found = likeness(self._outline(digest), self._outline(name))
            known = np.array([found.correlation, found.colour_gap], np.float32)
            self._compared.append((key, 0, known))
            if len(self._compared) >= _BLOCK:
                self._keep_compared()
        return Likeness(correlation=float(known[0]), colour_gap=float(known[1]))

    def _keep_compared(self) -> None:
        self._cache.put(_COMPARED, self._compared)
        self._compared = []

    def _chunk(self, digests: Sequence[str]) -> list[tuple[Vectors, Vectors]]:
        """Return colours and vectors of a few images.

        What is inside the border is kept apart: its colours, and its vector only where something was trimmed. What was
        not trimmed has the vector that training reads.
        """
        found: dict[str, tuple[Vectors, Vectors]] = {}
        keys = [bytes.fromhex(digest) for digest in digests]
        looks = self._cache.get_many(self._inside, keys)
        trimmed = {key for key, inside in looks.items() if inside.size > _COLOURS}
        plain = self._cache.get_many(self._tower, [key for key in keys if key not in trimmed])
        for digest, key in zip(digests, keys, strict=True):
            inside = looks.get(key)
            if inside is not None:
                vector = inside[_COLOURS:] if key in trimmed else plain.get(key)
                if vector is not None:
                    found[digest] = (inside[:_COLOURS], vector)
        lacking = [digest for digest in digests if digest not in found]
        encode = partial(self._encode, plain)
        fresh = zip(lacking, self._encoder.each(encode, lacking), strict=True)
        kept: dict[str, list[tuple[bytes, int, Vectors]]] = {self._inside: [], self._tower: []}
        for digest, encoded in fresh:
            key = bytes.fromhex(digest)
            found[digest] = (encoded.colours, encoded.vector)
            if encoded.is_kept:
                is_plain = not encoded.is_trimmed
                entry = encoded.colours if is_plain else np.append(*found[digest])
                kept[self._inside].append((key, 0, entry.astype(np.float32)))
                kept[self._tower] += [(key, 0, encoded.vector)] if is_plain else []
        for tower, entries in kept.items():
            self._cache.put(tower, entries)
        return [found[digest] for digest in digests]

    def _encode(self, plain: Mapping[bytes, Vectors], digest: str) -> _Encoded:
        """Return what is seen of an image; `plain` has the vectors that are known of what was not trimmed."""
        nothing = np.empty(0, np.float32)
        try:
            image = decode(self._read_blob(digest))
        except InvalidListing:
            return _Encoded(nothing, nothing, is_trimmed=False, is_kept=True)
        except PermanentError:  # lost: nothing is known of it
            return _Encoded(nothing, nothing, is_trimmed=False, is_kept=False)
        inside = trim(image)
        is_trimmed = inside is not image
        known = None if is_trimmed else plain.get(bytes.fromhex(digest))
        vector = self._encoder.encode_one(inside) if known is None else known
        return _Encoded(colours(inside), vector, is_trimmed=is_trimmed, is_kept=True)

    def _outline_of(self, digest: str) -> Outline:
        return Outline.of(decode(self._read_blob(digest)))
