import hashlib
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ledger.erasures import Belongings, Erasures
from ledger.keys import SEALED_BYTES, KeyRing
from ledger.store import ContentCorrupt, ContentMissing, ContentStore
from moderation.errors import PermanentError

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


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


def _erase(folder: Path, seller_id: str) -> str:
    key = KeyRing(folder / "keys.sqlite").find(seller_id)
    assert key
    Erasures(folder / "keys.sqlite").destroy(key, Belongings(), {}, NOON)
    return key.key_id


def test_store_seals_when_a_seller_is_named(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "content", durable=True)
    store.make_keys(["s1", "s2"])
    digest = store.put(b"photo", "s1")
    assert store.put(b"photo", "s1") == digest
    assert store.put(b"photo", "s2") == digest
    files = [path for path in (tmp_path / "content").rglob("*") if path.is_file()]
    assert len(files) == 2
    assert all(b"photo" not in path.read_bytes() for path in files)
    assert ContentStore(tmp_path / "content").get(digest) == b"photo"


def test_store_knows_more_sellers_than_a_process_remembers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.keys._REMEMBERED", 3)
    store, sellers = ContentStore(tmp_path / "content"), [f"s{number}" for number in range(8)]
    store.make_keys(sellers)
    for seller_id in (*sellers, *sellers):
        digest = store.put(seller_id.encode(), seller_id)
        assert store.get(digest, seller_id) == store.get(digest) == seller_id.encode()


def test_store_reads_a_living_copy_when_one_is_erased(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "content")
    shared, own = store.put(b"shared", "s1"), store.put(b"own", "s1")
    store.put(b"shared", "s2")
    key_id = _erase(tmp_path, "s1")
    assert store.get(shared) == b"shared"
    assert not store.has(own)
    with pytest.raises(ContentMissing, match=own):
        store.get(own)
    assert sorted(store.sealed_under(key_id)) == sorted([shared, own])
    assert store.remove(key_id) == 2
    assert store.remove(key_id) == 0
    assert store.get(shared) == b"shared"
    assert store.put(b"own", "s1") == own, "who comes back is somebody new"
    assert store.get(own) == b"own"


@pytest.mark.parametrize("seller_id", ["s1", "s2", "nobody"])
def test_store_finds_any_copy_whoever_is_asked_for(tmp_path: Path, seller_id: str) -> None:
    store = ContentStore(tmp_path / "content")
    shared, own, plain = store.put(b"shared", "s1"), store.put(b"own", "s1"), store.put(b"plain")
    store.put(b"shared", "s2")
    assert store.get(own, seller_id) == b"own"
    _erase(tmp_path, "s1")
    assert store.get(shared, seller_id) == b"shared"
    assert store.get(plain, seller_id) == b"plain"
    assert store.has(shared, seller_id)
    assert not store.has(own, seller_id)
    with pytest.raises(ContentMissing, match=own):
        store.get(own, seller_id)


def test_store_looks_for_no_other_copy_where_the_sellers_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ContentStore(tmp_path / "content")
    digest = store.put(b"photo", "s1")
    monkeypatch.setattr("ledger.store._names", None)
    assert store.get(digest, "s1") == b"photo"
    assert store.has(digest, "s1")


def test_store_detects_when_sealed_bytes_are_altered(tmp_path: Path) -> None:
    store = ContentStore(tmp_path / "content")
    digest = store.put(b"photo", "s1")
    (path,) = (tmp_path / "content").rglob(f"{digest}.*")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ContentCorrupt, match=digest):
        store.get(digest)
    store.put(b"photo", "s2")
    assert store.get(digest) == store.get(digest, "s1") == b"photo"
    path.write_bytes(b"torn")
    store.put(b"photo", "s1")
    assert len(path.read_bytes()) == len(b"photo") + SEALED_BYTES


def test_store_keeps_nothing_under_a_key_that_goes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gone = ContentStore(tmp_path / "content"), list[str]()
    write = ContentStore._write

    def slow(self: ContentStore, path: Path, data: bytes) -> None:
        write(self, path, data)
        if not gone:
            gone.append(_erase(tmp_path, "s1"))

    monkeypatch.setattr(ContentStore, "_write", slow)
    digest = store.put(b"photo", "s1")
    assert store.get(digest) == b"photo"
    assert store.sealed_under(gone[0]) == []
