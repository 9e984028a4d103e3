"""The spill: sealed, whole or not at all, found again after a crash, moved to the ledger exactly once."""

import os
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ledger.draining import RETRACED
from ledger.events import to_decision
from ledger.frames import Blob, scan
from ledger.keys import FILE_NAME, KeyRing, KeysLost, KeysUnavailable
from ledger.ledger import LedgerConflict, LedgerUnavailable, TraceTaken
from ledger.segments import SpillUnavailable
from ledger.spill import Spill
from tests.spilled_home import NOON, SpilledHome, decided, uploaded
from tidegate.erasing import belonging


@pytest.fixture
def home(tmp_path: Path) -> SpilledHome:
    return SpilledHome(tmp_path)


def test_what_is_spilled_is_found_and_sealed(home: SpilledHome) -> None:
    events = [uploaded("u1"), decided("u1", trace_id="a" * 32), uploaded("u2", None, "Nobody's")]
    assert home.put(*events) == [1, 1, 1]
    assert [home.spill.get_event(event.event_id) for event in events] == events
    assert home.spill.get_decision_of_trace("a" * 32) == events[1]
    assert home.spill.holds("u1")
    assert home.spill.get_event("submission:u9") is None
    data = home.files()[0].read_bytes()
    assert "Näkki".encode() not in data
    assert b'"seller_id":"s1"' not in data
    assert b'"seller_id":null' in data, "in plain, as it is of nobody"
    assert b"Nobody's" in data
    home.crash()
    assert [home.spill.get_event(event.event_id) for event in events] == events
    assert home.drain() == {"new": 3}
    assert [stored.event for stored in home.ledger.read()] == events
    assert (home.files(), home.spill.is_waiting(), home.spill.num_bytes) == ([], False, 0)


def test_an_id_is_taken_in_the_spill_as_in_the_ledger(home: SpilledHome) -> None:
    home.put(uploaded("u1"), decided("u1", trace_id="a" * 32))
    later = replace(uploaded("u1"), recorded_at=datetime(2026, 12, 1, tzinfo=UTC))
    same, conflict, taken, fresh, twice = home.put(
        later,
        uploaded("u1", title="Other"),
        decided("u2", trace_id="a" * 32),
        uploaded("u3"),
        uploaded("u3", None),
    )
    assert (same, fresh) == (0, 1)
    assert isinstance(conflict, LedgerConflict)
    assert isinstance(taken, TraceTaken)
    assert isinstance(twice, LedgerConflict), "within one group, too"


@pytest.mark.parametrize("torn", [b"\0" * 5_000, b"TgS1", b"TgS1\xff\xff\0\0" + b"\0" * 60])
def test_a_torn_end_loses_nothing_before_it(home: SpilledHome, torn: bytes) -> None:
    home.put(*(uploaded(f"u{n}") for n in range(5)))
    home.crash(torn)
    home.put(uploaded("u5"))
    assert len(home.files()) == 2, "nobody writes behind a torn end"
    assert home.drain() == {"new": 6}
    assert home.ids() == [f"submission:u{n}" for n in range(6)]
    assert home.files(".damaged") == []


def test_a_frame_that_was_cut_anywhere_is_not_whole(home: SpilledHome) -> None:
    home.put(uploaded("u1"), uploaded("u2"))
    data = home.files()[0].read_bytes()
    last = scan(data).frames[-1]
    for end in range(last.offset, len(data)):
        assert len(scan(data[:end]).frames) == 1
    for place in range(last.offset, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1
        assert len(scan(bytes(changed)).frames) == 1


def test_a_frame_that_the_disk_changed_is_kept_aside(home: SpilledHome) -> None:
    home.put(*(uploaded(f"u{n}") for n in range(3)))
    (path,) = home.files()
    data = bytearray(path.read_bytes())
    frame = scan(bytes(data)).frames[1]
    data[frame.offset + 60] ^= 1
    home.spill.close()
    path.write_bytes(data)
    home.spill = home.open()
    assert home.drain() == {"new": 2}
    assert home.ids() == ["submission:u0", "submission:u2"]
    assert home.spill.state().quarantined == 1
    (aside,) = home.files(".damaged")
    assert bytes(data[frame.offset : frame.offset + len(frame.data)]) in aside.read_bytes()


def test_bytes_of_an_upload_cannot_pass_for_a_frame(home: SpilledHome) -> None:
    """A crafted picture within a torn frame is not looked into: the file's salt goes into each digest."""
    other = SpilledHome(home.folder / "other")
    other.put(uploaded("forged", None))
    crafted = other.files()[0].read_bytes()
    home.spill.write_each([Blob("0" * 64, None, crafted + b"x" * 100)])
    home.spill.close()
    (path,) = home.files()
    path.write_bytes(path.read_bytes()[:-50])
    home.spill = home.open()
    assert home.drain() == {}
    assert home.ids() == []


def test_another_decision_in_the_ledger_wins_and_ours_is_kept_aside(home: SpilledHome) -> None:
    home.put(decided("u1", decision_id="ours", trace_id="a" * 32), uploaded("u2"))
    home.ledger.append([decided("u1", decision_id="theirs", trace_id="b" * 32)])
    assert home.drain() == {"conflict": 1, "new": 1}
    assert home.ids() == ["decision:u1", "submission:u2"]
    (aside,) = home.files(".quarantine")
    assert b"decision:u1" in aside.read_bytes()
    assert b"ours" not in aside.read_bytes(), "sealed as ever"
    assert (home.files(), home.spill.state().quarantined) == ([], 1)
    home.crash()
    assert home.spill.state().quarantined == 1


def test_a_decision_that_reached_the_ledger_after_all_is_the_same(home: SpilledHome) -> None:
    """The writer was slow, not dead: both got it, and one of them says that it was spilled."""
    home.ledger.append([decided("u1", trace_id="a" * 32)])
    home.put(decided("u1", trace_id="a" * 32, degraded=("ledger: spilled",)))
    assert home.drain() == {"there": 1}
    assert home.files(".quarantine") == []


def test_a_trace_that_the_ledger_has_does_not_lose_the_decision(home: SpilledHome) -> None:
    home.ledger.append([decided("u1", trace_id="a" * 32)])
    home.put(decided("u2", trace_id="a" * 32))
    assert home.drain() == {RETRACED: 1}
    stored = home.ledger.get_event("decision:u2")
    assert stored is not None
    assert to_decision(stored.event).trace_id == "f" * 32


def test_the_limit_and_a_full_disk_refuse(home: SpilledHome) -> None:
    home.max_bytes = 5_000
    home.crash()
    outcomes = home.put(*(uploaded(f"u{n}") for n in range(20)))
    kept = [outcome for outcome in outcomes if outcome == 1]
    assert 0 < len(kept) < 20
    assert isinstance(outcomes[-1], SpillUnavailable)
    assert not home.spill.has_room()
    assert home.drain() == {"new": len(kept)}
    assert home.put(uploaded("u99")) == [1]


def test_two_processes_share_a_folder_and_the_dead_ones_is_taken_over(home: SpilledHome) -> None:
    other = home.open()
    other.write_each([other.seal([uploaded("theirs")])])
    home.put(uploaded("ours"))
    assert home.drain() == {"new": 1}
    assert home.ids() == ["submission:ours"], "another's file is not touched while it lives"
    other.close()
    assert home.drain() == {"new": 1}
    assert home.ids() == ["submission:ours", "submission:theirs"]


def test_a_drain_that_is_stopped_goes_on_where_it_was(home: SpilledHome) -> None:
    home.put(*(uploaded(f"u{n}") for n in range(100)))
    holder = sqlite3.connect(home.folder / "ledger.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerUnavailable):
        home.drain()
    assert home.spill.get_event("submission:u99") is not None
    holder.execute("ROLLBACK")
    holder.close()
    assert home.drain() == {"new": 100}


def test_blobs_reach_the_store_sealed(home: SpilledHome) -> None:
    blob = home.spill.seal_blob(b"picture", "s1")
    home.spill.write_each([blob, home.spill.seal_blob(b"nobody's", None)])
    assert home.spill.holds_blob(blob.digest)
    assert b"picture" not in home.files()[0].read_bytes()
    home.crash()
    assert home.drain() == {"new": 2}
    assert home.store.get(blob.digest) == b"picture"
    assert not home.spill.holds_blob(blob.digest)


def test_an_erased_seller_is_erased_from_the_spill(home: SpilledHome) -> None:
    home.put(uploaded("u1"), decided("u1", trace_id="a" * 32), uploaded("u2", None))
    home.spill.write_each([home.spill.seal_blob(b"picture", "s1")])
    home.ledger.erase("s1", belonging, NOON)
    assert home.spill.get_event("submission:u1") is None
    assert home.spill.get_decision_of_trace("a" * 32) is None
    assert home.spill.is_erased("submission:u1")
    assert home.put(uploaded("u1")) == [0], "its id stays taken"
    home.crash()
    assert home.drain() == {"erased": 3, "new": 1}
    assert home.ids() == ["submission:u2"]
    assert home.ledger.is_erased("submission:u1"), "whoever sends it again is refused"
    assert not any(path.is_file() for path in (home.folder / "content").rglob("*"))


def test_without_keys_nothing_is_spilled_or_opened(home: SpilledHome) -> None:
    home.put(uploaded("u1"))
    home.spill.close()
    for path in home.folder.glob(f"{FILE_NAME}*"):
        os.remove(path)
    with pytest.raises(KeysLost, match="put it back"):
        Spill(home.folder / "spill", KeyRing(home.folder / FILE_NAME), 10**6)
    empty = Spill(home.folder / "empty", KeyRing(home.folder / FILE_NAME), 10**6)
    with pytest.raises(KeysUnavailable, match="no file of keys"):
        empty.seal([uploaded("u1")])
    with pytest.raises(KeysUnavailable):
        empty.seal_blob(b"x", "s1")
