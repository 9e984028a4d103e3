"""Copies among images: what was looked at once is never read again, readable or not."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import ImageEncoder
from moderation.image import decode
from moderation.image_copies import ImageCopies
from moderation.reading import IMAGE_FOLDER
from tests.golden_world import jpeg, photo
from tests.tiny_bundle import TinyRun


def test_nothing_is_read_a_second_time(tiny: TinyRun, tmp_path: Path) -> None:
    blobs = [jpeg(photo(1)), jpeg(photo(1), quality=60), jpeg(photo(2)), b"no image"]
    content = {hashlib.sha256(blob).hexdigest(): blob for blob in blobs}
    original, copy, other, unreadable = content
    encoder = ImageEncoder(tiny.bundle.folder / IMAGE_FOLDER)
    read: list[str] = []

    def read_blob(digest: str) -> bytes:
        read.append(digest)
        return content[digest]

    def found() -> list[int]:
        copies = ImageCopies(encoder, EmbeddingCache(tmp_path / "cache.sqlite"), read_blob)
        return [int(row) for row in copies.find([[copy], [other], [unreadable]], [[original]])]

    assert found() == [0, -1, -1]
    assert set(read) == set(content)
    read.clear()
    assert found() == [0, -1, -1]
    assert read == []


def test_only_what_was_trimmed_is_embedded_where_training_embedded_the_rest(
    tiny: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    framed = ImageOps.expand(decode(jpeg(photo(1))), border=24, fill="white")
    blobs = [jpeg(photo(1)), jpeg(framed), jpeg(photo(2))]
    content = {hashlib.sha256(blob).hexdigest(): blob for blob in blobs}
    original, frame, other = content
    encoder = ImageEncoder(tiny.bundle.folder / IMAGE_FOLDER)

    def found(cache: EmbeddingCache) -> list[int]:
        copies = ImageCopies(encoder, cache, content.__getitem__)
        return [int(row) for row in copies.find([[frame], [other]], [[original]])]

    expected = found(EmbeddingCache(tmp_path / "empty.sqlite"))
    known, encode_one = EmbeddingCache(tmp_path / "known.sqlite"), ImageEncoder.encode_one
    vectors = [encoder.encode_one(decode(blob)) for blob in blobs]
    keys = map(bytes.fromhex, content)
    known.put(encoder.cache_key, [(k, 0, v) for k, v in zip(keys, vectors, strict=True)])
    embedded: list[tuple[int, int]] = []

    def counted(self: ImageEncoder, image: Image.Image) -> np.ndarray:
        embedded.append(image.size)
        return encode_one(self, image)

    monkeypatch.setattr(ImageEncoder, "encode_one", counted)
    assert found(known) == expected == [0, -1]
    assert len(embedded) == 1, "the framed one"
