import hashlib
import threading
from pathlib import Path

import pytest

from ledger.store import ContentCorrupt, ContentMissing, ContentStore
from moderation.errors import PermanentError


@pytest.mark.parametrize("durable", [False, True])
def test_store_returns_bytes_when_put(tmp_path: Path, durable: bool) -> None:
    store = ContentStore(tmp_path, durable=durable)
    for data in (b"", b"photo" * 1_000):
        digest = store.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert store.has(digest)
        assert store.get(digest) == data


def test_store_keeps_one_file_when_put_twice(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    digest = store.put(b"photo")
    path = tmp_path / digest[:2] / digest[2:4] / digest
    written = path.stat().st_mtime_ns
    store.put(b"photo")
    assert path.stat().st_mtime_ns == written
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [digest]


def test_store_says_so_when_bytes_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ContentMissing, match="0000"):
        ContentStore(tmp_path).get("0" * 64)


def test_store_detects_when_bytes_are_altered(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    digest = store.put(b"photo")
    (tmp_path / digest[:2] / digest[2:4] / digest).write_bytes(b"other")
    with pytest.raises(ContentCorrupt, match=digest):
        store.get(digest)


def test_store_repairs_when_a_file_is_torn(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    digest = store.put(b"photo")
    (tmp_path / digest[:2] / digest[2:4] / digest).write_bytes(b"")
    store.put(b"photo")
    assert store.get(digest) == b"photo"


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_store_refuses_when_digest_is_no_digest(tmp_path: Path, digest: str) -> None:
    with pytest.raises(PermanentError, match="SHA-256"):
        ContentStore(tmp_path).get(digest)


def test_store_stays_whole_when_threads_put_the_same(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    data = b"x" * 200_000
    threads = [threading.Thread(target=store.put, args=(data,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get(hashlib.sha256(data).hexdigest()) == data
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 1
