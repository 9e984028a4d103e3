"""What the banks say of one image: matches, known good against known bad, and never a false no."""

import io
import mmap
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moderation import bank_index
from moderation.bank_versions import BankVersions
from moderation.banks import TIE_MARGIN, Banks
from moderation.clock import SimulatedClock
from moderation.image import pdq
from tests.bank_world import POLICIES, Hash, apart, entries_file, entry, flipped, good, hashes

CLOCK = SimulatedClock(datetime(2026, 11, 1, tzinfo=UTC))
KNOWN = hashes(1)[0]


def activated(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[BankVersions, Banks]:
    versions = BankVersions(tmp_path / "banks", CLOCK)
    versions.activate(versions.build(entries_file(tmp_path / "entries.jsonl", rows), POLICIES))
    banks = Banks(versions, CLOCK)
    assert banks.refresh()
    return versions, banks


@pytest.mark.parametrize(("distance", "is_found"), [(0, True), (30, True), (31, True), (32, False)])
def test_one_entry_matches_within_the_radius(tmp_path: Path, distance: int, is_found: bool) -> None:
    _, banks = activated(tmp_path, [entry("a", KNOWN)])
    signal = banks.lookup(apart(KNOWN, distance), 90)
    assert signal.status == "ok"
    assert [(one.entry_id, one.distance) for one in signal.matches] == [("a", distance)] * is_found
    assert signal.known_bad == (("weapons",) if is_found else ())
    assert signal.version is not None


def test_all_matches_come_nearest_first(tmp_path: Path) -> None:
    rows = [entry(f"d{distance}", apart(KNOWN, distance)) for distance in (20, 3, 33, 9)]
    _, banks = activated(tmp_path, [*rows, entry("s", apart(KNOWN, 5), policy="spam", bank="ads")])
    signal = banks.lookup(KNOWN, 90)
    assert [one.entry_id for one in signal.matches] == ["d3", "s", "d9", "d20"]
    assert (signal.matches[1].bank, signal.matches[1].kind) == ("ads", "match")
    assert signal.known_bad == ("spam", "weapons")


def test_missing_is_never_false(tmp_path: Path) -> None:
    empty = Banks(BankVersions(tmp_path / "none", CLOCK), CLOCK)
    assert not empty.refresh()
    _, banks = activated(tmp_path, [entry("a", KNOWN)])
    for signal, reason in (
        (empty.lookup(KNOWN, 90), "no_active_version"),
        (banks.lookup(KNOWN, 49), "low_quality"),
    ):
        assert (signal.status, signal.reason, signal.matches) == ("missing", reason, ())
        assert signal.known_bad is None
        assert signal.known_good is None
    assert banks.lookup(KNOWN, 50).status == "ok"


@pytest.mark.parametrize("wanted", [np.zeros(4, np.int64), np.zeros(32, np.uint64)])
def test_a_hash_of_another_shape_is_an_error_of_the_caller(tmp_path: Path, wanted: Any) -> None:
    _, banks = activated(tmp_path, [entry("a", KNOWN)])
    with pytest.raises(ValueError, match="four words"):
        banks.lookup(wanted, 90)


def test_an_image_encoded_anew_is_found(tmp_path: Path) -> None:
    coarse = np.random.default_rng(5).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((480, 360), Image.Resampling.BICUBIC)
    hash_4, quality = pdq(photo)
    _, banks = activated(tmp_path, [entry("a", hash_4, quality=quality)])
    encoded = io.BytesIO()
    photo.resize((300, 225)).save(encoded, "JPEG", quality=60)
    copy_4, copy_quality = pdq(Image.open(encoded))
    signal = banks.lookup(copy_4, copy_quality)
    assert [one.entry_id for one in signal.matches] == ["a"]
    flat_4, flat_quality = pdq(Image.new("RGB", (300, 200), "grey"))
    assert banks.lookup(flat_4, flat_quality).reason == "low_quality"


def between(bad: int, well: int) -> tuple[Hash, Hash]:
    """Return a known-bad and a known-good hash at those distances from KNOWN."""
    return flipped(KNOWN, range(bad)), flipped(KNOWN, range(100, 100 + well))


@pytest.mark.parametrize(
    ("bad", "well", "policy", "known_bad", "known_good"),
    [
        (31, 31 - TIE_MARGIN - 1, "weapons", (), ("weapons",)),
        (31, 31 - TIE_MARGIN, "weapons", ("weapons",), ()),
        (0, 0, "weapons", ("weapons",), ()),
        (2, 30, "weapons", ("weapons",), ()),
        (31, 0, "spam", ("weapons",), ("spam",)),
        (31, 0, "*", (), ("*",)),
        (5, 0, "*", ("weapons",), ()),
    ],
)
def test_near_ties_are_resolved_towards_caution(
    tmp_path: Path,
    bad: int,
    well: int,
    policy: str,
    known_bad: tuple[str, ...],
    known_good: tuple[str, ...],
) -> None:
    wrong, right = between(bad, well)
    _, banks = activated(tmp_path, [entry("b", wrong), good("g", right, policy=policy)])
    signal = banks.lookup(KNOWN, 90)
    assert (signal.known_bad, signal.known_good) == (known_bad, known_good)
    assert signal.is_contested == (policy != "spam")
    assert len(signal.matches) == 2


def test_a_known_good_image_alone_is_known_good(tmp_path: Path) -> None:
    _, banks = activated(tmp_path, [good("g", KNOWN, policy="*")])
    signal = banks.lookup(KNOWN, 90)
    assert (signal.known_bad, signal.known_good, signal.is_contested) == ((), ("*",), False)


def test_disabled_entries_do_not_match(tmp_path: Path) -> None:
    rows = [entry("on", KNOWN), entry("off", KNOWN, enabled=False)]
    versions, banks = activated(tmp_path, rows)
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["on"]
    before = banks.version
    versions.switch(["on"], is_enabled=False, reason="a false alarm", by="ana")
    versions.switch(["off"], is_enabled=True, reason="it was right", by="ana")
    assert banks.refresh()
    assert not banks.refresh()
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["off"]
    assert before is not None
    assert banks.version == before.replace("+0", "+2")


def test_switches_outlive_a_roll_back(tmp_path: Path) -> None:
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    rows = [entry("a", KNOWN), entry("b", KNOWN)]
    versions.activate(versions.build(entries_file(tmp_path / "two.jsonl", rows), POLICIES))
    versions.switch(["a", "b"], is_enabled=False, reason="a false alarm", by="ana")
    versions.roll_back()
    assert banks.refresh()
    assert banks.lookup(KNOWN, 90).matches == ()


def test_an_open_version_stays_valid(tmp_path: Path) -> None:
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    old = versions.active()
    assert old is not None
    source = entries_file(tmp_path / "b.jsonl", [entry("b", KNOWN)])
    versions.activate(versions.build(source, POLICIES))
    shutil.rmtree(tmp_path / "banks" / "versions" / old.version)
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["a"]
    assert banks.refresh()
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["b"]


def test_a_damaged_version_is_told_and_the_open_one_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    source = entries_file(tmp_path / "b.jsonl", [entry("b", KNOWN)])
    version = versions.build(source, POLICIES)
    versions.activate(version)
    (tmp_path / "banks" / "versions" / version / "order.npy").unlink()
    for _ in range(2):
        assert not banks.refresh()
    assert banks.num_refused == 2
    assert "order.npy: is missing" in str(banks.problem)
    assert len(caplog.records) == 1
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["a"]
    late = Banks(versions, CLOCK)
    late.refresh()
    signal = late.lookup(KNOWN, 90)
    assert (signal.status, signal.known_bad) == ("error", None)
    assert "build the version again" in signal.reason
    versions.build(source, POLICIES)
    assert banks.refresh()
    assert banks.problem is None


@pytest.mark.parametrize("name", ["order.npy", "starts.npy"])
def test_damage_under_an_open_version_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(bank_index, "_MAPPED_FROM", 0)
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    state = versions.active()
    assert state is not None
    path = tmp_path / "banks" / "versions" / state.version / name
    path.chmod(0o644)
    array = np.load(path, mmap_mode="r+")
    array[...] = np.arange(array.size, 0, -1, dtype=array.dtype).reshape(array.shape) + 9
    array.flush()
    signal = banks.lookup(KNOWN, 90)
    assert (signal.status, signal.known_bad) == ("error", None)
    assert "verify the version" in signal.reason


def cut(tmp_path: Path, versions: BankVersions, name: str) -> Path:
    state = versions.active()
    assert state is not None
    path = tmp_path / "banks" / "versions" / state.version / name
    path.chmod(0o644)
    os.truncate(path, 64)
    return path


@pytest.mark.parametrize("name", ["hashes.npy", "order.npy", "starts.npy", "ids.npy"])
def test_a_small_version_that_is_cut_while_open_goes_on(tmp_path: Path, name: str) -> None:
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    index = versions.open(versions.active() or pytest.fail("nothing is active"))[0]
    # First: a look-up in a mapped file that is cut would end this process.
    assert not index.mapped
    assert not isinstance(index.hashes_N4.base, mmap.mmap)
    cut(tmp_path, versions, name)
    assert not banks.refresh()
    assert banks.problem is None
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["a"]


def test_a_mapped_version_that_is_cut_is_closed_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_index, "_MAPPED_FROM", 0)
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    cut(tmp_path, versions, "hashes.npy")
    assert not banks.refresh()
    for _ in range(2):
        signal = banks.lookup(KNOWN, 90)
        assert (signal.status, signal.known_bad, banks.version) == ("error", None, None)
        assert "build the version again" in signal.reason
        assert not banks.refresh()
    versions.build(tmp_path / "entries.jsonl", POLICIES)
    assert banks.refresh()
    assert banks.problem is None
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["a"]


def test_a_cut_version_is_an_error_where_nothing_says_what_is_active(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_index, "_MAPPED_FROM", 0)
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    cut(tmp_path, versions, "ids.npy")
    versions.active_file.unlink()
    assert not banks.refresh()
    signal = banks.lookup(KNOWN, 90)
    assert (signal.status, signal.known_bad) == ("error", None)
    assert "was cut while it was open" in signal.reason


def test_a_mapped_version_that_is_removed_or_replaced_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_index, "_MAPPED_FROM", 0)
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    path = tmp_path / "banks" / "versions" / str(banks.version).split("+")[0] / "hashes.npy"
    other = path.with_name("other")
    other.write_bytes(b"short")
    other.replace(path)
    assert not banks.refresh()
    assert [one.entry_id for one in banks.lookup(KNOWN, 90).matches] == ["a"]
    path.unlink()
    assert not banks.refresh()
    assert banks.lookup(KNOWN, 90).status == "ok"
    assert versions.active() is not None


def test_a_header_that_lies_about_its_size_is_told(tmp_path: Path) -> None:
    versions, banks = activated(tmp_path, [entry("a", KNOWN)])
    version = versions.build(entries_file(tmp_path / "b.jsonl", [entry("b", KNOWN)]), POLICIES)
    versions.activate(version)
    path = tmp_path / "banks" / "versions" / version / "order.npy"
    raw = path.read_bytes()
    size = raw[10:].split(b"(", 1)[1].split(b")", 1)[0]
    lie = b"1000000000000,"
    path.chmod(0o644)
    path.write_bytes(raw.replace(size, lie, 1).replace(b" " * (len(lie) - len(size)), b"", 1))
    assert path.stat().st_size == len(raw)
    assert not banks.refresh()
    assert "order.npy: cannot be read" in (banks.problem or "")
