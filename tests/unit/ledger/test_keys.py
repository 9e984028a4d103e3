"""Keys of sellers: made before they are used, seen to be destroyed by every process, never lost without a word."""

import multiprocessing
import os
import sqlite3
import threading
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from ledger.erasures import Belongings, Erasures
from ledger.keys import KeyRing, KeysLost, KeysUnavailable, SealBroken
from moderation.errors import PermanentError

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.sqlite"


def _destroy(path: Path, seller_id: str) -> str:
    key = KeyRing(path).find(seller_id)
    assert key
    Erasures(path).destroy(key, Belongings(submissions=("u1",)), {}, NOON)
    return key.key_id


def test_a_key_is_made_once_and_found_by_its_id(path: Path) -> None:
    ring, other = KeyRing(path), KeyRing(path)
    keys = ring.of(["s1", "s2", "s1"])
    assert keys["s1"].key_id != keys["s2"].key_id
    assert other.of(["s2"]) == {"s2": keys["s2"]}
    assert other.live([keys["s1"].key_id]) == {keys["s1"].key_id: keys["s1"]}
    assert other.find("s1") == keys["s1"]
    assert other.find("nobody") is None
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_created_by_looking(path: Path) -> None:
    ring = KeyRing(path)
    assert (ring.find("s1"), ring.live([])) == (None, {})
    assert Erasures(path).all() == []
    assert not path.exists()


def test_many_keys_are_made_at_once(path: Path) -> None:
    sellers = [f"s{number}" for number in range(2_500)]
    keys = KeyRing(path).of(sellers)
    assert len({key.key_id for key in keys.values()}) == 2_500
    assert KeyRing(path).live([key.key_id for key in keys.values()]).keys() == {
        key.key_id for key in keys.values()
    }


@pytest.mark.parametrize("remembered", [0, 4, 9, 10, 100])
def test_every_key_is_found_however_few_a_process_remembers(
    path: Path, monkeypatch: pytest.MonkeyPatch, remembered: int
) -> None:
    monkeypatch.setattr("ledger.keys._REMEMBERED", remembered)
    sellers, ring = [f"s{number}" for number in range(10)], KeyRing(path)
    keys = ring.of(sellers)
    ids = [key.key_id for key in keys.values()]
    for _ in range(2):
        assert ring.of(["s0"]) == {"s0": keys["s0"]}
        assert ring.of(sellers) == keys
        assert ring.live(ids[:1]).keys() == {ids[0]}
        assert ring.live(ids).keys() == set(ids), "one call may need more than is remembered"
        assert ring.find("s9") == keys["s9"]
        assert ring.of([*sellers, "new"]).keys() == {*sellers, "new"}


def test_a_process_remembers_no_more_keys_than_it_may(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.keys._REMEMBERED", 3)
    ring = KeyRing(path)
    for number in range(50):
        ring.of([f"s{number}"])
        assert len(ring._by_id) == len(ring._by_seller) <= 4


def test_threads_agree_on_the_keys_that_they_make(path: Path) -> None:
    found: list[str] = []

    def make() -> None:
        found.append(KeyRing(path).of(["s1"])["s1"].key_id)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_key_opens_what_it_sealed_and_nothing_else(path: Path) -> None:
    keys = KeyRing(path).of(["s1", "s2"])
    sealed = keys["s1"].seal(b"water gun", b"u1")
    assert b"water" not in sealed
    assert keys["s1"].open(sealed, b"u1") == b"water gun"
    assert keys["s1"].seal(b"water gun", b"u1") != sealed
    for key, about, data in (
        (keys["s2"], b"u1", sealed),
        (keys["s1"], b"u2", sealed),
        (keys["s1"], b"u1", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (keys["s1"], b"u1", b"short"),
    ):
        with pytest.raises(SealBroken):
            key.open(data, about)
    assert keys["s1"].digest(b"x") != keys["s2"].digest(b"x")
    assert keys["s1"].secret.hex() not in repr(keys["s1"])


def test_a_destroyed_key_is_forgotten_by_who_remembered_it(path: Path) -> None:
    ring = KeyRing(path)
    keys = ring.of(["s1", "s2"])
    gone = _destroy(path, "s1")
    assert ring.live([gone, keys["s2"].key_id]) == {keys["s2"].key_id: keys["s2"]}
    assert ring.find("s1") is None
    assert ring.of(["s1"])["s1"].key_id != gone, "who comes back is somebody new"


def _watch(path: Path, pipe: Connection) -> None:
    ring = KeyRing(path)
    key_id = ring.of(["s1"])["s1"].key_id
    pipe.send(len(ring.live([key_id])))
    pipe.recv()
    pipe.send(len(ring.live([key_id])))


def test_another_process_sees_that_a_key_was_destroyed(path: Path) -> None:
    mine, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_watch, args=(path, theirs))
    process.start()
    assert mine.recv() == 1
    _destroy(path, "s1")
    mine.send("look again")
    assert mine.recv() == 0
    process.join(30)
    assert process.exitcode == 0


def _bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir() if file.is_file())


def test_no_byte_of_a_destroyed_key_stays(path: Path) -> None:
    ring = KeyRing(path)
    keys = ring.of([*(f"s{number}" for number in range(300)), "the-erased"])
    gone = _destroy(path, "the-erased")
    assert keys["the-erased"].secret not in _bytes(path.parent)
    assert b"the-erased" in _bytes(path.parent), "until all is done, the note says whose it was"
    Erasures(path).finish(gone, NOON)
    left = _bytes(path.parent)
    assert keys["s8"].secret in left
    assert b"the-erased" not in left
    assert b'"u1"' not in left


def test_a_lost_key_is_not_an_erased_one(path: Path) -> None:
    key_id = KeyRing(path).of(["s1"])["s1"].key_id
    other = KeyRing(path.with_name("other.sqlite"))
    other.of(["s2"])
    with pytest.raises(KeysLost, match="put back the right one"):
        other.live([key_id])
    os.remove(path)
    with pytest.raises(KeysLost, match="is not there"):
        KeyRing(path).live([key_id])


def test_keys_are_temporarily_away_when_locked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.keys._BUSY_S", 0.05)
    ring = KeyRing(path)
    ring.of(["s1"])
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(KeysUnavailable, match="locked"):
        ring.of(["s2"])
    holder.execute("ROLLBACK")
    holder.execute("BEGIN")
    holder.execute("SELECT COUNT(*) FROM keys").fetchone()
    with pytest.raises(KeysUnavailable):
        _destroy(path, "s1")
    holder.execute("ROLLBACK")
    holder.close()
    (begun,) = Erasures(path).unfinished("s1")
    Erasures(path).finish(begun.key_id, NOON)
    assert Erasures(path).unfinished() == []


def test_a_home_may_share_the_keys_of_another(path: Path, tmp_path: Path) -> None:
    """Homes that are made of links to another one's files read what is sealed there."""
    ring, link = KeyRing(path), tmp_path / "other" / "keys.sqlite"
    key_id = ring.of(["s1"])["s1"].key_id
    link.parent.mkdir()
    link.symlink_to(path)
    assert KeyRing(link).of(["s1"])["s1"].key_id == key_id
    assert KeyRing(link).of(["s2"]) == ring.of(["s2"])
    _destroy(path, "s1")
    assert KeyRing(link).live([key_id]) == {}


def test_a_file_that_holds_no_keys_is_named(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(PermanentError, match=r"keys\.sqlite"):
        KeyRing(path).of(["s1"])


def test_a_second_try_counts_no_less(path: Path) -> None:
    KeyRing(path).of(["s1"])
    key_id, erasures = _destroy(path, "s1"), Erasures(path)
    erasures.note(key_id, {"blobs": 3})
    erasures.note_features(key_id, {"blobs": 0, "rows": 2}, NOON)
    (one,) = erasures.all()
    assert one.counts == {"blobs": 3, "rows": 2}
    assert one.features_at == NOON
    assert erasures.in_features() == []
    assert [found.key_id for found in erasures.unfinished("s1")] == [key_id]
    assert erasures.unfinished("s2") == []
    erasures.finish(key_id, NOON)
    (one,) = erasures.all()
    assert (one.seller_id, one.belongings, one.finished_at) == (None, Belongings(), NOON)
