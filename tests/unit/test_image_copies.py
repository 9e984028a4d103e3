"""Copies among images: what was looked at once is never read again, readable or not."""

import hashlib
from pathlib import Path

from moderation.embedding_cache import EmbeddingCache
from moderation.encoders import IMAGE_FOLDER, ImageEncoder
from moderation.image_copies import ImageCopies
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
