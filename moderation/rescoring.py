"""Many listings scored by several bundles at once, from cached embeddings: what gates, replay and attacks cost.

The numbers are those of the scorer. Each distinct image and text goes once through each distinct tower, and never
again after that: the cache is the one that training fills. A text is normalised and hashed once for all bundles.
N listings, T distinct texts, K images of one, P policies, D embedding width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import sparse

from moderation.embedding_cache import EmbeddingCache, Vector, made_key
from moderation.embedding_plan import text_key
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.errors import BundleRejected, InvalidListing, TidegateError
from moderation.image import decode
from moderation.ngram_features import hash_features
from moderation.scores import (
    Codes,
    EmbeddedItem,
    Floats,
    Scores,
    check_item,
    gather_embedded,
    join_scores,
)
from moderation.scoring import Scorer
from moderation.text import model_text, ngram_texts

_CHUNK: Final = 512
"""Listings that are in memory at once; an interrupted run loses the embeddings of at most this many."""

_NONE: Final = np.empty(0, np.float32)
"""What the cache keeps for an image that cannot be decoded."""

Progress = Callable[[int, int], None]
Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LazyImage:
    """An image that is read only if no cache knows its embedding."""

    key: bytes
    """Names the content: the SHA-256 of the bytes, or the key of what was made from them."""

    load: Callable[[], bytes | Image.Image]
    """Gives the encoded bytes, or an image that `image.decode` gave."""


@dataclass(frozen=True)
class LazyItem:
    """One listing as `ScoringItem` has it, its images not yet read."""

    title: str = ""
    description: str = ""
    images: Sequence[LazyImage] = ()
    behaviour: npt.NDArray[np.float32] | None = None
    behaviour_status: Codes | None = None
    is_text_made: bool = False
    """Whether the text was made from submitted ones; its embeddings are then forgotten with any of those."""


@dataclass(frozen=True)
class _Read:
    """Those T of some texts that have anything to read."""

    texts: tuple[tuple[str, str], ...]
    """Title and description."""

    keys: tuple[bytes, ...]
    shown: tuple[str, ...]
    """As towers read them."""

    features: sparse.csr_matrix
    """As n-gram models read them."""


@dataclass
class Readings:
    """What is read of texts before any bundle sees them, kept for bundles that are asked about the same ones later.

    It follows from the texts and from the code alone, and is gone with the process.
    """

    most: int = 50_000
    """Texts that are kept, some four kilobytes each; 0 keeps none."""

    _kept: dict[tuple[tuple[str, str], ...], _Read] = field(default_factory=dict)
    _num_kept: int = 0

    def of(self, texts: Sequence[tuple[str, str]]) -> _Read:
        """Return what is read of some titles and descriptions, each of them once in `texts`."""
        key = tuple(texts)
        read = self._kept.get(key) or _read(texts)
        if key not in self._kept and self._num_kept + len(key) <= self.most:
            self._kept[key] = read
            self._num_kept += len(key)
        return read


def _read(texts: Sequence[tuple[str, str]]) -> _Read:
    shown = {text: model_text(*text).strip() for text in texts}
    kept = tuple(text for text in texts if shown[text])
    return _Read(
        texts=kept,
        keys=tuple(text_key(*text) for text in kept),
        shown=tuple(shown[text] for text in kept),
        features=hash_features([ngram_texts(*text) for text in kept]),
    )


def rescore(
    items: Sequence[LazyItem],
    scorers: Sequence[Scorer],
    cache: EmbeddingCache,
    *,
    num_threads: int = 1,
    readings: Readings | None = None,
    progress: Progress | None = None,
) -> list[Scores]:
    """Return the scores of `items` by each scorer: those of `Scorer.score`, up to 1e-5.

    Args:
        items: any number of listings, whatever they lack.
        scorers: loaded bundles; those that share a tower share its embeddings.
        cache: takes what it lacks.
        num_threads: images that are read and embedded side by side.
        readings: takes what it lacks; None: texts are read for this call alone.
        progress: called with (listings done, listings in all).

    Raises:
        InvalidListing: naming the item and field that breaks a limit.
        BundleRejected: if a bundle refuses to answer, or answers with what is no number.
    """
    for number, item in enumerate(items):
        check_item(item, f"items[{number}]")
    parts: list[list[Scores]] = [[] for _ in scorers]
    with _Towers(scorers, cache, num_threads) as towers:
        texts = _Texts(items, scorers, towers, readings or Readings(most=0))
        for begin in range(0, max(len(items), 1), _CHUNK):
            chunk = items[begin : begin + _CHUNK]
            images = towers.embed_images([image for item in chunk for image in item.images])
            for scores, scorer in zip(parts, scorers, strict=True):
                scores.append(_answers(scorer, chunk, images, texts))
            if progress is not None:
                progress(begin + len(chunk), len(items))
    return [join_scores(scores, {}) for scores in parts]


class _Towers:
    """The distinct towers of some bundles, behind the cache."""

    def __init__(self, scorers: Sequence[Scorer], cache: EmbeddingCache, num_threads: int) -> None:
        self._cache, self._num_threads = cache, num_threads
        self._image: dict[str, ImageEncoder] = {
            scorer.image_encoder.cache_key: scorer.image_encoder for scorer in scorers
        }
        self._text: dict[str, TextEncoder] = {
            scorer.text_encoder.cache_key: scorer.text_encoder for scorer in scorers
        }

    def __enter__(self) -> "_Towers":
        self._pool = ThreadPoolExecutor(self._num_threads)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def embed_images(self, images: Sequence[LazyImage]) -> dict[str, dict[bytes, Vector]]:
        """Return the embedding of each image by tower and key; empty where it cannot be decoded."""
        distinct = {image.key: image for image in images}
        known, lacking = self._cached(self._image, distinct)

        def compute(key: bytes) -> dict[str, Vector]:
            try:
                loaded = distinct[key].load()
                decoded = decode(loaded) if isinstance(loaded, bytes) else loaded
            except InvalidListing:
                return dict.fromkeys(lacking[key], _NONE)
            with answering("an image tower"):
                return {tower: self._image[tower].encode_one(decoded) for tower in lacking[key]}

        return self._computed(known, lacking, compute)

    def embed_texts(self, texts: Mapping[bytes, str]) -> dict[str, dict[bytes, Vector]]:
        """Return the embedding of each text by tower and key.

        Args:
            texts: key of the raw text -> what a tower reads of it.
        """
        known, lacking = self._cached(self._text, texts)

        def compute(key: bytes) -> dict[str, Vector]:
            with answering("a text tower"):
                return {tower: self._text[tower].encode_one(texts[key]) for tower in lacking[key]}

        return self._computed(known, lacking, compute)

    def _cached(
        self, towers: Mapping[str, object], keys: Mapping[bytes, object]
    ) -> tuple[dict[str, dict[bytes, Vector]], dict[bytes, list[str]]]:
        """Return what is cached by tower and key, and by key the towers that lack it."""
        known = {tower: self._cache.get_many(tower, keys) for tower in towers}
        lacking: dict[bytes, list[str]] = {}
        for tower, found in known.items():
            for key in keys:
                if key not in found:
                    lacking.setdefault(key, []).append(tower)
        return known, lacking

    def _computed(
        self,
        known: dict[str, dict[bytes, Vector]],
        lacking: Mapping[bytes, list[str]],
        compute: Callable[[bytes], dict[str, Vector]],
    ) -> dict[str, dict[bytes, Vector]]:
        """Return `known` with what it lacked, which the cache keeps from now on."""
        fresh: dict[str, list[tuple[bytes, int, Vector]]] = {tower: [] for tower in known}
        for key, vectors in zip(lacking, self._each(compute, list(lacking)), strict=True):
            for tower, vector in vectors.items():
                known[tower][key] = vector
                fresh[tower].append((key, 0, vector))
        for tower, entries in fresh.items():
            self._cache.put(tower, entries)
        return known

    def _each(self, task: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
        return self._pool.map(task, tasks) if self._num_threads > 1 else map(task, tasks)


class _Texts:
    """What every tower and n-gram model says of each distinct text, read before any listing is scored."""

    def __init__(
        self,
        items: Sequence[LazyItem],
        scorers: Sequence[Scorer],
        towers: _Towers,
        readings: Readings,
    ) -> None:
        distinct: dict[tuple[str, str], bool] = {}
        for item in items:
            text = item.title, item.description
            distinct[text] = item.is_text_made and distinct.get(text, True)
        self._is_made = distinct
        self._vector: dict[str, dict[tuple[str, str], Vector]] = {
            scorer.text_encoder.cache_key: {} for scorer in scorers
        }
        self._ngram: dict[str, dict[tuple[str, str], Floats]] = {
            scorer.digest: {} for scorer in scorers
        }
        texts = list(distinct)
        for begin in range(0, len(texts), _CHUNK):
            self._take(readings.of(texts[begin : begin + _CHUNK]), scorers, towers)

    def vector(self, scorer: Scorer, item: LazyItem) -> Vector | None:
        """Return a listing's text embedding; None where no text is left after normalisation."""
        return self._vector[scorer.text_encoder.cache_key].get((item.title, item.description))

    def ngram_TP(self, scorer: Scorer, items: Sequence[LazyItem]) -> Floats:
        """Return the n-gram member's logits of those listings that have text."""
        known = self._ngram[scorer.digest]
        rows = [known.get((item.title, item.description)) for item in items]
        found = [row_P for row_P in rows if row_P is not None]
        return np.array(found).reshape(-1, len(scorer.policies))

    def _take(self, read: "_Read", scorers: Sequence[Scorer], towers: _Towers) -> None:
        named = zip(read.texts, read.keys, strict=True)
        keys = [made_key(key) if self._is_made[text] else key for text, key in named]
        vectors = towers.embed_texts(dict(zip(keys, read.shown, strict=True)))
        for tower, found in vectors.items():
            pairs = zip(read.texts, keys, strict=True)
            self._vector[tower].update((text, found[key]) for text, key in pairs)
        for scorer in scorers:
            logits_TP = scorer.ngram.logits_of(read.features)
            self._ngram[scorer.digest].update(zip(read.texts, logits_TP, strict=True))


def _answers(
    scorer: Scorer,
    items: Sequence[LazyItem],
    images: Mapping[str, Mapping[bytes, Vector]],
    texts: _Texts,
) -> Scores:
    vector_of = images[scorer.image_encoder.cache_key]
    embedded = [_embedded(scorer, item, vector_of, texts) for item in items]
    with answering(f"bundle {scorer.digest[:12]}"):
        return scorer.score_embedded(
            items, embedded, texts.ngram_TP(scorer, items), is_grouped=True
        )


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Say of any error inside, but our own, that a model is at fault and not the listing: inputs are checked before.

    Args:
        what: the model, for people.

    Raises:
        BundleRejected: in the place of whatever the model's runtime raises.
    """
    try:
        yield
    except TidegateError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base class but Exception
        raise BundleRejected(f"{what} gives no scores: {error}; build the bundle again") from error


def _embedded(
    scorer: Scorer, item: LazyItem, vector_of: Mapping[bytes, Vector], texts: _Texts
) -> EmbeddedItem:
    vectors = [vector_of[image.key] for image in item.images]
    images = [vector if vector.size else None for vector in vectors]
    return gather_embedded(images, scorer.image_encoder.dim, texts.vector(scorer, item))
