"""Embedding: each content once, only what the cache lacks, in bounded batches; what cannot be read is missing."""

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from moderation.augment import AUGMENT_VERSION, image_view
from moderation.embedded_rows import EmbeddedRows
from moderation.embedding import Embedder, embed_snapshot
from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder, TextEncoder
from moderation.errors import InvalidSnapshot
from moderation.image import decode
from moderation.listing import Listing, Submission
from moderation.snapshot import Snapshot, SnapshotRow, SnapshotWriter
from moderation.text import model_text
from tests.tiny_bundle import TinyRun
from tests.toy import START, ToyWorld, toy_image, toy_world

NUM_ROWS = 60


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return toy_world(NUM_ROWS)


@pytest.fixture(scope="module")
def snapshot(world: ToyWorld, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return world.snapshot(tmp_path_factory.mktemp("snapshot"))


def _embedder(tiny: TinyRun, cache: Path, num_threads: int = 1) -> Embedder:
    return Embedder(
        ImageEncoder(tiny.parts["image_tower"], num_threads),
        TextEncoder(tiny.parts["text_tower"], num_threads),
        EmbeddingCache(cache),
    )


def _refuse(digest: str) -> bytes:
    raise AssertionError(f"{digest} is read again")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_rows_hold_what_the_encoders_say(
    tiny: TinyRun, world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    embedder = _embedder(tiny, tmp_path / "cache.sqlite")
    seen: list[tuple[int, int]] = []
    rows = embed_snapshot(
        snapshot,
        world.blobs.__getitem__,
        embedder,
        folder=tmp_path / "rows",
        num_views=1,
        progress=lambda done, total: seen.append((done, total)),
    )
    listings = [row for batch in snapshot.batches() for row in batch.to_pylist()]
    batch = rows.batch(np.arange(snapshot.num_rows))
    for row, listing in enumerate(listings):
        digests = listing["image_digests"]
        assert batch.image_mask_BK[row].sum() == len(digests)
        for k, digest in enumerate(digests):
            expected = embedder.image.encode_one(decode(world.blobs[digest]))
            np.testing.assert_array_equal(batch.images_BKD[row, k], expected)
        text = model_text(listing["title"], listing["description"])
        assert batch.has_text_B[row] == bool(text)
        expected = embedder.text.encode_one(text) if text else np.zeros(rows.text_dim, np.float32)
        np.testing.assert_array_equal(batch.text_BD[row], expected)
    assert seen[-1][0] == seen[-1][1] == rows.info["images"] + rows.info["texts"]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_second_run_reads_nothing_when_all_is_cached(
    tiny: TinyRun, world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    cache = tmp_path / "cache.sqlite"
    folder = tmp_path / "rows"
    embedder = _embedder(tiny, cache)
    embed_snapshot(snapshot, world.blobs.__getitem__, embedder, folder=folder, num_views=2)
    first = _bytes(folder)
    again = _embedder(tiny, cache)
    embed_snapshot(snapshot, _refuse, again, folder=folder, num_views=2)
    assert again.cache.misses == 0
    assert _bytes(folder) == first


def test_rows_are_the_same_when_threads_differ(
    tiny: TinyRun, world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    for threads in (1, 2):
        embedder = _embedder(tiny, tmp_path / f"{threads}.sqlite", threads)
        read: Callable[[str], bytes] = world.blobs.__getitem__
        embed_snapshot(snapshot, read, embedder, folder=tmp_path / str(threads), num_views=2)
    assert _bytes(tmp_path / "1") == _bytes(tmp_path / "2")


def test_views_are_kept_for_train_rows_alone(
    tiny: TinyRun, world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    embedder = _embedder(tiny, tmp_path / "cache.sqlite")
    rows = embed_snapshot(
        snapshot, world.blobs.__getitem__, embedder, folder=tmp_path / "rows", num_views=3
    )
    is_train_N = snapshot.role == "train"
    is_violating_N = (snapshot.truth_NP() == 1).any(1)
    expected_N = np.where(is_train_N, np.where(is_violating_N, 3, 2), 1)
    np.testing.assert_array_equal(rows.num_views_N, expected_N)
    chosen = np.flatnonzero(is_train_N & is_violating_N & (rows.num_images_N > 0))[:1]
    (listing,) = [
        row
        for number, row in enumerate(r for b in snapshot.batches() for r in b.to_pylist())
        if number == chosen[0]
    ]
    digest = listing["image_digests"][0]
    seed = int.from_bytes(bytes.fromhex(digest)[:4], "big")
    for view in range(3):
        image = decode(world.blobs[digest])
        expected = embedder.image.encode_one(image_view(image, view, seed) if view else image)
        got = rows.batch(chosen, np.array([view])).images_BKD[0, 0]
        np.testing.assert_array_equal(got, expected)


def test_missing_view_falls_back_to_what_was_submitted(
    tiny: TinyRun, world: ToyWorld, snapshot: Snapshot, tmp_path: Path
) -> None:
    embedder = _embedder(tiny, tmp_path / "cache.sqlite")
    rows = embed_snapshot(
        snapshot, world.blobs.__getitem__, embedder, folder=tmp_path / "rows", num_views=1
    )
    index = np.arange(8)
    np.testing.assert_array_equal(
        rows.batch(index, np.full(8, 5)).images_BKD, rows.batch(index).images_BKD
    )


def test_undecodable_image_counts_as_missing(tiny: TinyRun, tmp_path: Path) -> None:
    good = toy_image(np.random.default_rng(0), (200, 0, 0))
    blobs = {hashlib.sha256(data).hexdigest(): data for data in (good, b"no image", good[:90])}
    writer = SnapshotWriter(tmp_path / "snapshot", ("spam",), START + timedelta(days=9))
    listing = Listing(listing_id="l", seller_id="s")
    digests = tuple(blobs)
    order = (digests[1], digests[0], digests[2])
    submission = Submission(
        submission_id="u", listing=listing, image_digests=order, submitted_at=START
    )
    writer.add(SnapshotRow(submission, None, {"spam": True}))
    embedder = _embedder(tiny, tmp_path / "cache.sqlite")
    rows = embed_snapshot(
        writer.finish(), blobs.__getitem__, embedder, folder=tmp_path / "rows", num_views=1
    )
    assert rows.info["undecodable"] == 2
    batch = rows.batch(np.array([0]))
    assert batch.image_mask_BK.tolist() == [[False, True, False]]
    assert not batch.has_text_B[0]


def test_equal_contents_are_embedded_once(tiny: TinyRun, tmp_path: Path) -> None:
    data = toy_image(np.random.default_rng(0), (200, 0, 0))
    digest = hashlib.sha256(data).hexdigest()
    writer = SnapshotWriter(tmp_path / "snapshot", ("spam",), START + timedelta(days=9))
    for number in range(4):
        submission = Submission(
            submission_id=f"u{number}",
            listing=Listing(listing_id=f"l{number}", seller_id=f"s{number}", title="one text"),
            image_digests=(digest, digest),
            submitted_at=START + timedelta(hours=number),
            attributes={"split": "train"},
        )
        writer.add(SnapshotRow(submission, None, {"spam": bool(number & 1)}))
    read: list[str] = []
    embedder = _embedder(tiny, tmp_path / "cache.sqlite")
    rows = embed_snapshot(
        writer.finish(),
        lambda key: read.append(key) or data,  # type: ignore[func-returns-value]
        embedder,
        folder=tmp_path / "rows",
        num_views=1,
    )
    assert (read, rows.info["images"], rows.info["texts"]) == ([digest], 1, 1)


def test_cache_forgets_views_when_augmentation_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    vector = np.arange(3, dtype=np.float32)
    cache.put("tower", [(b"k", 0, vector), (b"k", 1, vector)])
    monkeypatch.setattr("moderation.embedding_cache.AUGMENT_VERSION", f"{AUGMENT_VERSION}-next")
    kept = cache.get("tower", b"k", 0)
    assert kept is not None
    np.testing.assert_array_equal(kept, vector)
    assert cache.get("tower", b"k", 1) is None
    assert cache.get("other tower", b"k", 0) is None


def test_rows_are_refused_when_unfinished(tmp_path: Path) -> None:
    (tmp_path / "info.json").write_text(json.dumps({}))
    with pytest.raises(InvalidSnapshot, match="embed the snapshot again"):
        EmbeddedRows.open(tmp_path)


def test_many_vectors_are_read_as_one_by_one(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "embeddings.sqlite")
    keys = [number.to_bytes(32, "big") for number in range(600)]
    kept = {key: np.full(3, number, np.float32) for number, key in enumerate(keys) if number % 3}
    cache.put("tower", [(key, 0, vector) for key, vector in kept.items()])
    cache.put("tower", [(keys[0], 1, np.ones(3, np.float32))])  # another view of it
    cache.put("other", [(keys[3], 0, np.ones(3, np.float32))])
    found = cache.get_many("tower", [*keys, *keys[:5]])
    assert found.keys() == kept.keys()
    assert all(np.array_equal(found[key], kept[key]) for key in kept)
    assert (cache.hits, cache.misses) == (400, 200)
    assert cache.get_many("tower", []) == {}
