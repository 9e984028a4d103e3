"""Rescoring: the scorer's numbers from cached embeddings, each content once for all bundles."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moderation.bundle import Bundle
from moderation.embedding import Embedder, embed_snapshot
from moderation.embedding_cache import EmbeddingCache
from moderation.errors import BundleRejected, InvalidListing
from moderation.features import FEATURE_NAMES
from moderation.rescoring import LazyImage, LazyItem, Readings, rescore
from moderation.scores import Scores
from moderation.scoring import Scorer, ScoringItem
from tests.toy import toy_image, toy_world

IMAGE = toy_image(np.random.default_rng(3), (200, 30, 30))
CORRUPT = IMAGE[:60]
F = len(FEATURE_NAMES)


@pytest.fixture(scope="module")
def scorer(tiny_bundle: Bundle) -> Scorer:
    return Scorer.load(tiny_bundle.folder)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "embeddings.sqlite")


def _lazy(item: ScoringItem) -> LazyItem:
    def one(data: bytes | Image.Image) -> LazyImage:
        assert isinstance(data, bytes)
        return LazyImage(hashlib.sha256(data).digest(), lambda: data)

    images = [one(data) for data in item.images]
    return LazyItem(item.title, item.description, images, item.behaviour, item.behaviour_status)


def _items() -> list[ScoringItem]:
    world = toy_world(90, seed=21)
    rows = [
        ScoringItem(
            title=row.submission.listing.title,
            description=row.submission.listing.description,
            images=world.images(row),
            behaviour=row.behaviour_F,
        )
        for row in world.rows
    ]
    values, failed = np.arange(F, dtype=np.float32), np.full(F, 2, np.int8)
    return [
        *rows,
        ScoringItem(images=[CORRUPT]),
        ScoringItem(title="lamp", images=[CORRUPT, b""]),
        ScoringItem(title="lamp", images=[CORRUPT, IMAGE, IMAGE]),
        ScoringItem(title="\u200b ", images=[IMAGE]),
        ScoringItem(title="f r e e \u200b p1stol", behaviour=values, behaviour_status=failed),
        ScoringItem(),
    ]


def _close(one: Scores, other: Scores) -> bool:
    return (
        np.abs(one.probability_NP - other.probability_NP).max() <= 1e-5
        and np.abs(one.signals_NPM - other.signals_NPM).max() <= 1e-5
        and np.array_equal(one.signal_status_NPM, other.signal_status_NPM)
        and np.array_equal(one.worst_image_NP, other.worst_image_NP)
        and one.undecodable == other.undecodable
    )


@pytest.mark.parametrize("num_threads", [1, 2])
def test_rescoring_gives_the_numbers_of_the_scorer(
    scorer: Scorer, cache: EmbeddingCache, num_threads: int
) -> None:
    items = _items()
    (again,) = rescore([_lazy(item) for item in items], [scorer], cache, num_threads=num_threads)
    assert _close(again, scorer.score(items))


def test_combining_is_bit_exact_after_rescoring(scorer: Scorer, cache: EmbeddingCache) -> None:
    (scores,) = rescore([_lazy(item) for item in _items()], [scorer], cache)
    again = scorer.combine(scores.signals_NPM, scores.signal_status_NPM)
    assert again.tobytes() == scores.probability_NP.tobytes()


def test_texts_are_read_once_when_readings_are_kept(scorer: Scorer, cache: EmbeddingCache) -> None:
    items = [_lazy(item) for item in _items()]
    (alone,) = rescore(items, [scorer], cache)
    readings = Readings()
    for _ in range(2):
        (scores,) = rescore(items, [scorer], cache, readings=readings)
        assert scores.probability_NP.tobytes() == alone.probability_NP.tobytes()
    texts = list(dict.fromkeys((item.title, item.description) for item in items))
    assert readings.of(texts) is readings.of(texts)
    assert readings.of(texts[:1]) is not readings.of(texts)


def test_readings_keep_no_more_than_they_may() -> None:
    readings = Readings(most=2)
    first = readings.of([("lamp", ""), ("shoe", "")])
    assert readings.of([("lamp", ""), ("shoe", "")]) is first
    assert readings.of([("hat", "")]) is not readings.of([("hat", "")])


def test_contents_are_read_once_when_two_share_a_tower(
    scorer: Scorer, tiny_bundle: Bundle, cache: EmbeddingCache, tmp_path: Path
) -> None:
    read: list[bytes] = []

    def load() -> bytes:
        read.append(b"")
        return IMAGE

    image = LazyImage(hashlib.sha256(IMAGE).digest(), load)
    items = [LazyItem("lamp", images=[image, image]), LazyItem("lamp", images=[image])]
    both = [scorer, Scorer.load(tiny_bundle.folder)]
    first, second = rescore(items, both, cache)
    assert len(read) == 1
    assert first.probability_NP.tobytes() == second.probability_NP.tobytes()
    rescore(items, both, EmbeddingCache(tmp_path / "embeddings.sqlite"))
    assert len(read) == 1


def test_rescoring_computes_nothing_that_training_did(
    scorer: Scorer, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    world = toy_world(40, seed=4)
    snapshot = world.snapshot(tmp_path / "snapshot")
    embedder = Embedder.open(tiny_bundle.folder, tmp_path / "embeddings.sqlite")
    embed_snapshot(
        snapshot, world.blobs.__getitem__, embedder, folder=tmp_path / "rows", num_views=1
    )

    def never() -> bytes:
        raise AssertionError("an image that training embedded is read again")

    kept = set(snapshot.column("submission_id"))
    items = [
        LazyItem(
            row.submission.listing.title,
            row.submission.listing.description,
            [LazyImage(bytes.fromhex(d), never) for d in row.submission.image_digests],
        )
        for row in world.rows
        if row.submission.submission_id in kept
    ]
    cache = EmbeddingCache(tmp_path / "embeddings.sqlite")
    rescore(items, [scorer], cache)
    assert (cache.misses, len(items) > 20) == (0, True)


def test_progress_counts_up_to_all_listings(scorer: Scorer, cache: EmbeddingCache) -> None:
    told: list[tuple[int, int]] = []
    items = [LazyItem(title=f"lamp {number}") for number in range(600)]
    rescore(items, [scorer], cache, progress=lambda done, total: told.append((done, total)))
    assert told == [(512, 600), (600, 600)]


def test_no_listing_gives_empty_scores(scorer: Scorer, cache: EmbeddingCache) -> None:
    (scores,) = rescore([], [scorer], cache)
    assert scores.probability_NP.shape == (0, len(scorer.policies))


def test_listing_is_named_when_it_breaks_a_limit(scorer: Scorer, cache: EmbeddingCache) -> None:
    image = LazyImage(b"k" * 32, lambda: IMAGE)
    with pytest.raises(InvalidListing, match=r"items\[1\]\.images"):
        rescore([LazyItem("fine"), LazyItem(images=[image] * 9)], [scorer], cache)


def test_bundle_is_refused_when_it_answers_no_number(
    tiny_bundle: Bundle, cache: EmbeddingCache
) -> None:
    broken = Scorer.load(tiny_bundle.folder)
    broken.ngram = replace(broken.ngram, intercept_P=np.full(len(broken.policies), np.nan))
    with pytest.raises(BundleRejected, match="gives no scores: a signal is ok and not a number"):
        rescore([LazyItem("lamp")], [broken], cache)


def test_bundle_is_refused_when_a_tower_fails(tiny_bundle: Bundle, tmp_path: Path) -> None:
    broken = Scorer.load(tiny_bundle.folder)
    broken.text_encoder, broken.image_encoder = broken.image_encoder, broken.text_encoder  # type: ignore[assignment]  # a bundle whose towers were swapped
    with pytest.raises(BundleRejected, match="a text tower gives no scores"):
        rescore([LazyItem("lamp")], [broken], EmbeddingCache(tmp_path / "other.sqlite"))
