"""The one scorer: a verified bundle and listings give scores, for predictor, evaluation, gates, replay and drift.

N listings, K images of one, P policies, M ensemble members, F behaviour features, D embedding width. Every listing is
run through the towers and heads by itself, so that its scores do not depend on what came in the same batch.

What is missing or broken has a status and never a guess:

- no image, or a text without a letter left after normalisation, or no known behaviour feature: `missing`;
- images of which none can be decoded, or behaviour of which every feature failed: `error`; where some images can be
  decoded, these are scored and the others are named in `undecodable`;
- nothing at all: every member is missing, and the probability is the prior of the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from moderation.boosting import BoostingModel
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.decision import SIGNALS, STATUS_CODES, SignalStatus
from moderation.encoders import (
    IMAGE_FOLDER,
    TEXT_FOLDER,
    ImageEncoder,
    TextEncoder,
    open_session,
)
from moderation.ensemble import Ensemble
from moderation.errors import InvalidListing
from moderation.image import decode
from moderation.ngram import NgramModel
from moderation.scores import (
    Codes,
    Floats,
    Scores,
    ScoringItem,
    Vectors,
    check_item,
    join_scores,
    known_behaviour,
)
from moderation.telemetry import span
from moderation.text import model_text, ngram_texts
from moderation.thresholds import read_thresholds

__all__ = ["Scorer", "Scores", "ScoringItem"]

_CHUNK: Final = 64
"""Listings that are in memory at once, each with the embeddings of its images."""

_OK: Final = STATUS_CODES[SignalStatus.OK]
_MISSING: Final = STATUS_CODES[SignalStatus.MISSING]
_ERROR: Final = STATUS_CODES[SignalStatus.ERROR]
_NO_IMAGE: Final = -1
_FUSION, _IMAGE, _TEXT, _NGRAM, _BEHAVIOUR = (
    SIGNALS.index(name) for name in ("fusion", "image", "text", "ngram", "behaviour")
)


@dataclass(frozen=True)
class _Embedded:
    """One listing after the towers."""

    images_KD: Vectors
    image_index_K: npt.NDArray[np.int32]
    undecodable: tuple[int, ...]
    text_D: Vectors | None


class Scorer:
    """A loaded bundle; safe to use from many threads."""

    def __init__(self, bundle: Bundle, num_threads: int = 1, clock: Clock | None = None) -> None:
        folder = bundle.folder
        self.bundle = bundle
        self.digest = bundle.digest
        self.policies = bundle.manifest.policies
        self.thresholds = read_thresholds(folder / "thresholds.json")
        self._clock = clock or SystemClock()
        self._image_encoder = ImageEncoder(folder / IMAGE_FOLDER, num_threads)
        self._text_encoder = TextEncoder(folder / TEXT_FOLDER, num_threads)
        self._heads = open_session(folder / "heads" / "heads.onnx")
        self._ngram = NgramModel.load(folder / "ngram")
        self._boosting = BoostingModel.load(folder / "behaviour")
        self._ensemble = Ensemble.load(folder / "ensemble.json")

    @classmethod
    def load(cls, folder: Path, num_threads: int = 1, *, digest: str | None = None) -> "Scorer":
        """Return the scorer of the bundle in `folder`, verified first.

        Args:
            folder: a bundle.
            num_threads: items that are embedded side by side; the scores do not depend on it.
            digest: the digest that is expected, if one is.

        Raises:
            BundleRejected: if anything in the bundle is not what its manifest says.
        """
        return cls(Bundle.open(folder, digest=digest), num_threads)

    def score(self, items: Sequence[ScoringItem], *, with_embeddings: bool = False) -> Scores:
        """Return the scores of `items`; each is the same in any batch, in any order.

        Args:
            items: any number of listings, whatever they lack.
            with_embeddings: whether to give the embeddings too.

        Raises:
            InvalidListing: naming the item and field that breaks a limit; what cannot be decoded is no such case.
        """
        for number, item in enumerate(items):
            check_item(item, f"items[{number}]")
        latency: dict[str, float] = {}
        chunks = [
            self._score_chunk(items[begin : begin + _CHUNK], latency, with_embeddings)
            for begin in range(0, len(items), _CHUNK)
        ] or [self._score_chunk((), latency, with_embeddings)]
        return join_scores(chunks, latency)

    def combine(self, signals_NPM: Floats, signal_status_NPM: Codes) -> Floats:
        """Return probability_NP of recorded signals, bit for bit what `score` gave with them."""
        probability_NP: Floats = self._ensemble.combine(signals_NPM, signal_status_NPM)
        return probability_NP

    def _score_chunk(
        self, items: Sequence[ScoringItem], latency: dict[str, float], with_embeddings: bool
    ) -> Scores:
        shape = (len(items), len(self.policies), len(SIGNALS))
        signals_NPM = np.zeros(shape)
        status_NPM = np.full(shape, _MISSING, np.int8)
        worst_NP = np.full(shape[:2], _NO_IMAGE, np.int32)
        embedded = self._embed(items, latency)
        with self._stage("heads", latency):
            for row, listing in enumerate(embedded):
                self._run_heads(listing, signals_NPM[row], status_NPM[row], worst_NP[row])
        with self._stage("ngram", latency):
            rows = [row for row, listing in enumerate(embedded) if listing.text_D is not None]
            texts = [ngram_texts(items[row].title, items[row].description) for row in rows]
            if rows:
                signals_NPM[rows, :, _NGRAM] = self._ngram.logits(texts)
                status_NPM[rows, :, _NGRAM] = _OK
        with self._stage("behaviour", latency):
            self._run_behaviour(items, signals_NPM, status_NPM)
        with self._stage("ensemble", latency):
            probability_NP = self.combine(signals_NPM, status_NPM)
        return Scores(
            probability_NP,
            signals_NPM,
            status_NPM,
            worst_NP,
            tuple(listing.undecodable for listing in embedded),
            _image_means(embedded, self._image_encoder.dim) if with_embeddings else None,
            _texts(embedded, self._text_encoder.dim) if with_embeddings else None,
            latency,
        )

    def _embed(self, items: Sequence[ScoringItem], latency: dict[str, float]) -> list[_Embedded]:
        with self._stage("image_tower", latency):
            flat = [(row, k) for row, item in enumerate(items) for k in range(len(item.images))]
            images = [items[row].images[k] for row, k in flat]
            vectors = list(self._image_encoder.each(self._embed_image, images))
        with self._stage("text_tower", latency):
            texts = [model_text(item.title, item.description).strip() for item in items]
            rows = [row for row, text in enumerate(texts) if text]
            encoded = self._text_encoder.encode([texts[row] for row in rows])
        text_of = dict(zip(rows, encoded, strict=True))
        images_of: list[list[tuple[int, Vectors | None]]] = [[] for _ in items]
        for (row, k), vector in zip(flat, vectors, strict=True):
            images_of[row].append((k, vector))
        return [self._gather(images, text_of.get(row)) for row, images in enumerate(images_of)]

    def _gather(
        self, images: Sequence[tuple[int, Vectors | None]], text_D: Vectors | None
    ) -> _Embedded:
        good = [(k, vector) for k, vector in images if vector is not None]
        images_KD = np.zeros((len(good), self._image_encoder.dim), np.float32)
        for row, (_, vector) in enumerate(good):
            images_KD[row] = vector
        index_K = np.array([k for k, _ in good], np.int32)
        return _Embedded(
            images_KD, index_K, tuple(k for k, vector in images if vector is None), text_D
        )

    def _embed_image(self, image: bytes | Image.Image) -> Vectors | None:
        """Return the embedding; None where the bytes are no image that may be decoded."""
        try:
            with span("decode"):
                decoded = decode(image) if isinstance(image, bytes) else image
        except InvalidListing:
            return None
        return self._image_encoder.encode_one(decoded)

    def _run_heads(
        self,
        listing: _Embedded,
        signals_PM: Floats,
        status_PM: Codes,
        worst_P: npt.NDArray[np.int32],
    ) -> None:
        num_images, has_text = len(listing.images_KD), listing.text_D is not None
        if listing.undecodable and not num_images:
            status_PM[:, _IMAGE] = _ERROR
            status_PM[:, _FUSION] = _ERROR
        if not num_images and not has_text:
            return
        images_1KD = np.zeros((1, max(1, num_images), self._image_encoder.dim), np.float32)
        images_1KD[0, :num_images] = listing.images_KD
        text_1D = np.zeros((1, self._text_encoder.dim), np.float32)
        if listing.text_D is not None:
            text_1D[0] = listing.text_D
        feed = {
            "images_BKD": images_1KD,
            "image_mask_BK": np.arange(images_1KD.shape[1])[None] < num_images,
            "text_BD": text_1D,
            "has_text_B": np.array([has_text]),
        }
        image_1P, text_1P, fusion_1P, worst_1P = self._heads.run(_HEAD_OUTPUTS, feed)
        signals_PM[:, _FUSION], status_PM[:, _FUSION] = fusion_1P[0], _OK
        if num_images:
            signals_PM[:, _IMAGE], status_PM[:, _IMAGE] = image_1P[0], _OK
            worst_P[:] = listing.image_index_K[worst_1P[0]]
        if has_text:
            signals_PM[:, _TEXT], status_PM[:, _TEXT] = text_1P[0], _OK

    def _run_behaviour(
        self, items: Sequence[ScoringItem], signals_NPM: Floats, status_NPM: Codes
    ) -> None:
        if not items:
            return
        values_NF = known_behaviour(items)
        for row, item in enumerate(items):
            if item.behaviour_status is not None and (item.behaviour_status == _ERROR).all():
                status_NPM[row, :, _BEHAVIOUR] = _ERROR
        rows = np.flatnonzero(~np.isnan(values_NF).all(axis=1))
        if len(rows):
            signals_NPM[rows, :, _BEHAVIOUR] = self._boosting.logits(values_NF[rows])
            status_NPM[rows, :, _BEHAVIOUR] = _OK

    @contextmanager
    def _stage(self, name: str, latency: dict[str, float]) -> Iterator[None]:
        begin = self._clock.monotonic()
        with span(name, self._clock):
            yield
        latency[name] = latency.get(name, 0.0) + self._clock.monotonic() - begin


_HEAD_OUTPUTS: Final = ["image_BP", "text_BP", "fusion_BP", "worst_image_BP"]


def _image_means(embedded: Sequence[_Embedded], dim: int) -> Vectors:
    means_ND = np.zeros((len(embedded), dim), np.float32)
    for row, listing in enumerate(embedded):
        if len(listing.images_KD):
            means_ND[row] = listing.images_KD.mean(axis=0)
    return means_ND


def _texts(embedded: Sequence[_Embedded], dim: int) -> Vectors:
    texts_ND = np.zeros((len(embedded), dim), np.float32)
    for row, listing in enumerate(embedded):
        if listing.text_D is not None:
            texts_ND[row] = listing.text_D
    return texts_ND
