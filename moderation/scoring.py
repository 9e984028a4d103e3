"""The one scorer: a verified bundle and listings give scores, for predictor, evaluation, gates, replay and drift.

N listings, K images of one, P policies, M ensemble members, F behaviour features, D embedding width. A listing is first
prepared (decoded, cut into tokens, normalised), which needs no model; then a batch of prepared listings goes through
the models. `score` does both and runs every listing through towers and heads by itself, so that its scores do not
depend on what came in the same call; a server prepares on some threads and forms its batches of what is ready.

What is missing or broken has a status and never a guess:

- no image, or a text without a letter left after normalisation, or no known behaviour feature: `missing`;
- images of which none can be decoded, or behaviour of which every feature failed: `error`; where some images can be
  decoded, these are scored and the others are named in `undecodable`;
- nothing at all: every member is missing, and the probability is the prior of the policy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from moderation.behaviour_prefilter import Flags, Prefilter
from moderation.boosting import BoostingModel
from moderation.bundle import Bundle
from moderation.clock import Clock, SystemClock
from moderation.decision import SIGNALS, STATUS_CODES, SignalStatus
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.engines.engine import EngineOpener
from moderation.engines.onnx_runtime import open_reference, open_session
from moderation.ensemble import Ensemble
from moderation.ngram import NgramModel
from moderation.preparing import Preparer
from moderation.reading import IMAGE_FOLDER, TEXT_FOLDER
from moderation.scores import (
    Codes,
    EmbeddedItem,
    Floats,
    PreparedItem,
    Readable,
    Scores,
    ScoringItem,
    check_item,
    gather_embedded,
    image_means,
    join_scores,
    known_behaviour,
    text_vectors,
)
from moderation.telemetry import span
from moderation.thresholds import read_thresholds

__all__ = ["PreparedItem", "Scorer", "Scores", "ScoringItem"]

_CHUNK: Final = 16
"""Listings of one call that are in memory at once, each with its images as the tower reads them: 5 MB with eight."""

_HEADS_CHUNK: Final = 64

_OK: Final = STATUS_CODES[SignalStatus.OK]
_MISSING: Final = STATUS_CODES[SignalStatus.MISSING]
_ERROR: Final = STATUS_CODES[SignalStatus.ERROR]
_NO_IMAGE: Final = -1
_FUSION, _IMAGE, _TEXT, _NGRAM, _BEHAVIOUR = (
    SIGNALS.index(name) for name in ("fusion", "image", "text", "ngram", "behaviour")
)


class Scorer:
    """A loaded bundle; safe to use from many threads.

    Args:
        bundle: verified.
        num_threads: items that are embedded side by side; the scores do not depend on it.
        clock: times the stages.
        open_engine: runs the towers. The heads take microseconds and always run in the reference engine.
    """

    def __init__(
        self,
        bundle: Bundle,
        num_threads: int = 1,
        clock: Clock | None = None,
        *,
        open_engine: EngineOpener = open_reference,
    ) -> None:
        folder = bundle.folder
        self.bundle = bundle
        self.digest = bundle.digest
        self.policies = bundle.manifest.policies
        self.thresholds = read_thresholds(folder / "thresholds.json")
        self._clock = clock or SystemClock()
        self.image_encoder = ImageEncoder(folder / IMAGE_FOLDER, num_threads, open_engine)
        self.text_encoder = TextEncoder(folder / TEXT_FOLDER, num_threads, open_engine)
        self.engine = self.text_encoder.engine
        self._preparer = Preparer(self.image_encoder.reader, self.text_encoder.reader)
        self._heads = open_session(folder / "heads" / "heads.onnx")
        self.ngram = NgramModel.load(folder / "ngram")
        self.boosting = BoostingModel.load(folder / "behaviour")
        self._ensemble = Ensemble.load(folder / "ensemble.json")
        self.prefilter = Prefilter.load(folder)
        """None for a bundle that was built without one."""

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

    def log_odds(self, signals_NPM: Floats, signal_status_NPM: Codes) -> Floats:
        """Return the calibrated log-odds_NP behind `combine`."""
        log_odds_NP: Floats = self._ensemble.log_odds(signals_NPM, signal_status_NPM)
        return log_odds_NP

    def lets_go(self, items: Sequence[Readable]) -> Flags | None:
        """Return which listings would pass without being scored; None where the bundle lets nothing go."""
        if self.prefilter is None or not self.prefilter.evidence.is_open:
            return None
        return self.prefilter.lets_go(known_behaviour(items).astype(np.float32))

    def score_embedded(
        self,
        items: Sequence[Readable],
        embedded: Sequence[EmbeddedItem],
        ngram_TP: Floats,
        *,
        latency: dict[str, float] | None = None,
        is_grouped: bool = False,
    ) -> Scores:
        """Return the scores of listings whose embeddings are known.

        Args:
            items: give behaviour.
            embedded: the same listings after the towers of this bundle.
            ngram_TP: logits of the n-gram member for the listings that have text, in their order.
            latency: seconds by stage, added to.
            is_grouped: whether listings with as many images go through the heads together: many times faster, and
                up to 1e-6 off what each gives alone.
        """
        latency = {} if latency is None else latency
        shape = (len(items), len(self.policies), len(SIGNALS))
        signals_NPM = np.zeros(shape)
        status_NPM = np.full(shape, _MISSING, np.int8)
        worst_NP = np.full(shape[:2], _NO_IMAGE, np.int32)
        with self._stage("heads", latency):
            for rows in _head_batches(embedded, is_grouped):
                self._run_heads(rows, embedded, signals_NPM, status_NPM, worst_NP)
        with_text = [row for row, one in enumerate(embedded) if one.text_D is not None]
        if with_text:
            signals_NPM[with_text, :, _NGRAM] = ngram_TP
            status_NPM[with_text, :, _NGRAM] = _OK
        with self._stage("behaviour", latency):
            self._run_behaviour(items, signals_NPM, status_NPM)
        with self._stage("ensemble", latency):
            probability_NP = self.combine(signals_NPM, status_NPM)
        undecodable = tuple(one.undecodable for one in embedded)
        return Scores(
            probability_NP, signals_NPM, status_NPM, worst_NP, undecodable, None, None, latency
        )

    def prepare(self, item: ScoringItem) -> PreparedItem:
        """Return a listing decoded, cut into tokens and normalised; from any thread.

        Args:
            item: within the limits that `score` checks.
        """
        return self._preparer.prepare(item)

    def score_prepared(
        self,
        prepared: Sequence[PreparedItem],
        *,
        with_embeddings: bool = False,
        is_grouped: bool = True,
        latency: dict[str, float] | None = None,
    ) -> Scores:
        """Return the scores of one batch of prepared listings.

        Args:
            prepared: by `prepare` of this scorer, all in memory at once.
            with_embeddings: whether to give the embeddings too.
            is_grouped: as in `score_embedded`.
            latency: seconds by stage, added to.
        """
        latency = {} if latency is None else latency
        embedded = self._embed(prepared, latency)
        with self._stage("ngram", latency):
            ngram_TP = self.ngram.logits(
                [one.ngram for one in prepared if one.tokens_T is not None]
            )
        scores = self.score_embedded(
            prepared, embedded, ngram_TP, latency=latency, is_grouped=is_grouped
        )
        if not with_embeddings:
            return scores
        return replace(
            scores,
            embedding_image_ND=image_means(embedded, self.image_encoder.dim),
            embedding_text_ND=text_vectors(embedded, self.text_encoder.dim),
        )

    def _score_chunk(
        self, items: Sequence[ScoringItem], latency: dict[str, float], with_embeddings: bool
    ) -> Scores:
        with self._stage("prepare", latency):
            prepared = list(self.image_encoder.each(self.prepare, items))
        return self.score_prepared(
            prepared, with_embeddings=with_embeddings, is_grouped=False, latency=latency
        )

    def _embed(
        self, prepared: Sequence[PreparedItem], latency: dict[str, float]
    ) -> list[EmbeddedItem]:
        with self._stage("image_tower", latency):
            images = [image for one in prepared for image in one.images if image is not None]
            vectors = iter(self.image_encoder.run(images))
        with self._stage("text_tower", latency):
            texts = [one.tokens_T for one in prepared if one.tokens_T is not None]
            encoded = iter(self.text_encoder.run(texts))
        return [
            gather_embedded(
                [None if image is None else next(vectors) for image in one.images],
                self.image_encoder.dim,
                None if one.tokens_T is None else next(encoded),
            )
            for one in prepared
        ]

    def _run_heads(
        self,
        rows: npt.NDArray[np.int64],
        embedded: Sequence[EmbeddedItem],
        signals_NPM: Floats,
        status_NPM: Codes,
        worst_NP: npt.NDArray[np.int32],
    ) -> None:
        """Fill in what the heads say of listings with the same number of images, none of them empty."""
        chosen = [embedded[row] for row in rows]
        num_images = len(chosen[0].images_KD)
        if not num_images:
            failed = [row for row, one in zip(rows, chosen, strict=True) if one.undecodable]
            for member in (_IMAGE, _FUSION):
                status_NPM[failed, :, member] = _ERROR
        has_text_B = np.array([one.text_D is not None for one in chosen])
        is_run_B = has_text_B | (num_images > 0)
        rows, has_text_B = rows[is_run_B], has_text_B[is_run_B]
        chosen = [one for one, is_run in zip(chosen, is_run_B, strict=True) if is_run]
        if not chosen:
            return
        images_BKD = np.zeros((len(rows), max(1, num_images), self.image_encoder.dim), np.float32)
        text_BD = np.zeros((len(rows), self.text_encoder.dim), np.float32)
        for place, one in enumerate(chosen):
            images_BKD[place, :num_images] = one.images_KD
            if one.text_D is not None:
                text_BD[place] = one.text_D
        feed = {
            "images_BKD": images_BKD,
            "image_mask_BK": np.full(images_BKD.shape[:2], num_images > 0),
            "text_BD": text_BD,
            "has_text_B": has_text_B,
        }
        image_BP, text_BP, fusion_BP, worst_BP = self._heads.run(_HEAD_OUTPUTS, feed)
        signals_NPM[rows, :, _FUSION], status_NPM[rows, :, _FUSION] = fusion_BP, _OK
        if num_images:
            signals_NPM[rows, :, _IMAGE], status_NPM[rows, :, _IMAGE] = image_BP, _OK
            index_BK = np.array([one.image_index_K for one in chosen])
            worst_NP[rows] = np.take_along_axis(index_BK, worst_BP, axis=1)
        with_text = rows[has_text_B]
        signals_NPM[with_text, :, _TEXT] = text_BP[has_text_B]
        status_NPM[with_text, :, _TEXT] = _OK

    def _run_behaviour(
        self, items: Sequence[Readable], signals_NPM: Floats, status_NPM: Codes
    ) -> None:
        if not items:
            return
        values_NF = known_behaviour(items)
        for row, item in enumerate(items):
            if item.behaviour_status is not None and (item.behaviour_status == _ERROR).all():
                status_NPM[row, :, _BEHAVIOUR] = _ERROR
        rows = np.flatnonzero(~np.isnan(values_NF).all(axis=1))
        if len(rows):
            signals_NPM[rows, :, _BEHAVIOUR] = self.boosting.logits(values_NF[rows])
            status_NPM[rows, :, _BEHAVIOUR] = _OK

    @contextmanager
    def _stage(self, name: str, latency: dict[str, float]) -> Iterator[None]:
        begin = self._clock.monotonic()
        with span(name, self._clock):
            yield
        latency[name] = latency.get(name, 0.0) + self._clock.monotonic() - begin


_HEAD_OUTPUTS: Final = ["image_BP", "text_BP", "fusion_BP", "worst_image_BP"]


def _head_batches(
    embedded: Sequence[EmbeddedItem], is_grouped: bool
) -> Iterator[npt.NDArray[np.int64]]:
    """Yield rows that go through the heads together: each alone, or all with the same number of images."""
    if not is_grouped:
        yield from (np.array([row]) for row in range(len(embedded)))
        return
    num_images_N = np.array([len(one.images_KD) for one in embedded], np.int64)
    for number in np.unique(num_images_N):
        rows = np.flatnonzero(num_images_N == number)
        for begin in range(0, len(rows), _HEADS_CHUNK):
            yield rows[begin : begin + _HEADS_CHUNK]
