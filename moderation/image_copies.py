"""Photos that copy golden ones although they were cropped, framed or mirrored, which a PDQ hash does not survive.

Embeddings of the trimmed photos propose pairs, their pixels decide: among photos of groceries, a crop lies closer to
its original (cosine .90 at the fifth percentile of crops to 90 %) than most other photos do (14 % have another that
close), but not than all, so that no cosine alone tells them apart. N rows, G golden rows, D embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.alignment import ALIGNMENT_VERSION, Likeness, Outline, likeness, trim
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ENCODING_VERSION, ImageEncoder
from moderation.errors import InvalidListing, PermanentError
from moderation.image import decode

MIN_COSINE: Final = 0.79
"""With the comparison of pixels behind it, it finds 100 % of crops of grocery photos to 90 %, 94 % of crops to 80 %,
69 % of crops to 70 %, 99 % of frames of 5 to 20 % and 100 % of mirror images, and takes 0.5 % of other photos for
copies."""

_NEAREST: Final = 3
"""Golden photos per photo whose pixels are compared: other photos of the product may come before the original."""

_MARGIN: Final = 0.01
"""A strict search asks for so much more, so that it finds nothing that the wider one let pass by a rounding."""

_CHUNK: Final = 128
_BLOCK: Final = 1_024
_OUTLINES: Final = 512

Vectors = npt.NDArray[np.float32]
_LOST: Final[Vectors] = np.empty(0, np.float32)
Integers = npt.NDArray[np.int64]


class ImageCopies:
    """Finds copies among the images of a content store; what was embedded once is cached."""

    def __init__(
        self, encoder: ImageEncoder, cache: EmbeddingCache, read_blob: Callable[[str], bytes]
    ) -> None:
        self._encoder, self._cache, self._read_blob = encoder, cache, read_blob
        self._tower = f"{encoder.digest}:{ENCODING_VERSION}"
        self._trimmed = f"{self._tower}:trimmed-{ALIGNMENT_VERSION}"
        self._outline = lru_cache(_OUTLINES)(self._outline_of)
        self._known: dict[tuple[str, str], Likeness] = {}

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
            known_GD = self.vectors(names)
            for digest, name in self._near(wanted, names, known_GD, MIN_COSINE + margin):
                if digest == name or self._likeness(digest, name).is_copy(margin):
                    copied[digest] = first_row[name]
        hits = [next((copied[d] for d in found if d in copied), -1) for found in rows]
        return np.array(hits, np.int64)

    def vectors(self, digests: Sequence[str]) -> Vectors:
        """Return one unit vector per image, of what is inside its border; zeros for what cannot be read."""
        found_ND = np.zeros((len(digests), self._encoder.dim), np.float32)
        for begin in range(0, len(digests), _CHUNK):
            chunk = digests[begin : begin + _CHUNK]
            for row, vector in enumerate(self._chunk(chunk), start=begin):
                norm = float(np.linalg.norm(vector)) if vector.size else 0.0
                if norm:
                    found_ND[row] = vector / norm
        return found_ND

    def _near(
        self, wanted: Sequence[str], names: Sequence[str], known_GD: Vectors, least: float
    ) -> Iterator[tuple[str, str]]:
        """Yield pairs of an image and a golden one near it; sorted by the golden one, whose outline is kept."""
        pairs: list[tuple[int, int]] = []
        nearest = min(_NEAREST, len(names))
        for begin in range(0, len(wanted), _BLOCK):
            cosine_BG = self.vectors(wanted[begin : begin + _BLOCK]) @ known_GD.T
            top_BK = np.argpartition(-cosine_BG, nearest - 1, axis=1)[:, :nearest]
            is_near_BK = np.take_along_axis(cosine_BG, top_BK, axis=1) >= least
            for row, slot in np.argwhere(is_near_BK).tolist():
                pairs.append((int(top_BK[row, slot]), begin + row))
        for place, row in sorted(pairs):
            yield wanted[row], names[place]

    def _likeness(self, digest: str, name: str) -> Likeness:
        if (digest, name) not in self._known:
            self._known[digest, name] = likeness(self._outline(digest), self._outline(name))
        return self._known[digest, name]

    def _chunk(self, digests: Sequence[str]) -> list[Vectors]:
        """Return the vectors of a few images; an empty one under the trimmed tower says that nothing was trimmed."""
        found: dict[str, Vectors] = {}
        for digest in digests:
            key = bytes.fromhex(digest)
            trimmed = self._cache.get(self._trimmed, key, 0)
            if trimmed is not None:
                plain = None if trimmed.size else self._cache.get(self._tower, key, 0)
                vector = trimmed if trimmed.size else plain
                if vector is not None:
                    found[digest] = vector
        lacking = [digest for digest in digests if digest not in found]
        fresh = zip(lacking, self._encoder.each(self._encode, lacking), strict=True)
        kept: dict[str, list[tuple[bytes, int, Vectors]]] = {self._trimmed: [], self._tower: []}
        for digest, (trimmed, plain) in fresh:
            found[digest] = trimmed if plain is None else plain
            if trimmed is not _LOST:
                kept[self._trimmed].append((bytes.fromhex(digest), 0, trimmed))
                kept[self._tower] += [] if plain is None else [(bytes.fromhex(digest), 0, plain)]
        for tower, entries in kept.items():
            self._cache.put(tower, entries)
        return [found[digest] for digest in digests]

    def _encode(self, digest: str) -> tuple[Vectors, Vectors | None]:
        """Return the vector of the trimmed image, empty where that is the image, and then that of the image."""
        nothing = np.empty(0, np.float32)
        try:
            image = decode(self._read_blob(digest))
        except InvalidListing:
            return nothing, nothing
        except PermanentError:  # lost: nothing is known of it, and nothing is kept
            return _LOST, _LOST
        inside = trim(image)
        if inside is image:
            return nothing, self._encoder.encode_one(image)
        return self._encoder.encode_one(inside), None

    def _outline_of(self, digest: str) -> Outline:
        return Outline.of(decode(self._read_blob(digest)))
