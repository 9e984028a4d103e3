"""Versions of the banks: wrong entries, damage, crashes, activation under readers, rolling back, switches."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from moderation.bank_entries import read_entries
from moderation.bank_index import open_version, verify_version
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SimulatedClock, SystemClock
from moderation.errors import BankRejected
from tests.bank_world import POLICIES, apart, entries_file, entry, hashes

CLOCK = SimulatedClock(datetime(2026, 11, 1, tzinfo=UTC))
ROOT = Path(__file__).resolve().parents[2]
Change = Callable[[dict[str, Any]], object]


def home(tmp_path: Path) -> BankVersions:
    return BankVersions(tmp_path / "banks", CLOCK)


def built(tmp_path: Path, versions: BankVersions, num: int = 20, seed: int = 0) -> str:
    rows = [entry(f"e{number}", one) for number, one in enumerate(hashes(num, seed))]
    return versions.build(entries_file(tmp_path / "entries.jsonl", rows), POLICIES)


def folder_of(tmp_path: Path, version: str) -> Path:
    return tmp_path / "banks" / "versions" / version


def test_same_entries_make_the_same_version(tmp_path: Path) -> None:
    versions = home(tmp_path)
    rows = [entry(f"e{number}", one) for number, one in enumerate(hashes(30))]
    first = versions.build(entries_file(tmp_path / "a.jsonl", rows), POLICIES)
    assert versions.build(entries_file(tmp_path / "b.jsonl", rows[::-1]), POLICIES) == first
    manifest = verify_version(folder_of(tmp_path, first))
    assert (manifest.num_entries, manifest.banks[0].kind) == (30, "match")


def test_parquet_and_jsonl_say_the_same(tmp_path: Path) -> None:
    rows = [entry(f"e{number}", one) for number, one in enumerate(hashes(5))]
    table = pa.Table.from_pylist(rows)
    instant = pa.array([datetime(2026, 11, 1, tzinfo=UTC)] * 5, pa.timestamp("ns", "UTC"))
    pyarrow.parquet.write_table(
        table.set_column(7, "added_at", instant), tmp_path / "entries.parquet"
    )
    source = entries_file(tmp_path / "entries.jsonl", rows)
    first, second = (
        read_entries(path, POLICIES) for path in (source, tmp_path / "entries.parquet")
    )
    assert first.table.equals(second.table)
    assert np.array_equal(first.hashes(), hashes(5))


def test_low_quality_is_left_out_and_told(tmp_path: Path) -> None:
    versions, known = home(tmp_path), hashes(2)
    rows = [entry("flat", known[0], quality=49), entry("sharp", known[1], quality=50)]
    version = versions.build(entries_file(tmp_path / "entries.jsonl", rows), POLICIES)
    manifest = open_version(folder_of(tmp_path, version)).manifest
    assert (manifest.num_entries, manifest.low_quality) == (1, ("flat",))
    with pytest.raises(BankRejected, match="none of 1 entries can be indexed"):
        versions.build(entries_file(tmp_path / "low.jsonl", rows[:1]), POLICIES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda row: row.update(policy="toys"), r"row 2 \(e1\) names no policy"),
        (lambda row: row.update(policy="*"), "names no policy"),
        (lambda row: row.update(kind="bad"), "kind that is none"),
        (lambda row: row.update(pdq="00"), "has another pdq"),
        (lambda row: row.update(quality=101), "quality outside"),
        (lambda row: row.update(entry_id="e0"), r"row 2 \(e0\) is there twice"),
        (lambda row: row.update(entry_id="é"), "has another entry_id"),
        (lambda row: row.update(entry_id=None), "has another entry_id"),
        (lambda row: row.update(kind="negative"), "both match and negative"),
        (lambda row: row.update(added_at=None), "has no added_at"),
        (lambda row: row.update(added_at="yesterday"), "added_at"),
        (lambda row: row.update(added_at="2026-11-01T00:00:00"), "added_at"),
        (lambda row: row.update(colour="red"), "too many: \\['colour'\\]"),
        (lambda row: row.update(quality="high"), "cannot be read"),
    ],
)
def test_wrong_entries_are_named_and_refused(tmp_path: Path, change: Change, told: str) -> None:
    rows = [entry(f"e{number}", one) for number, one in enumerate(hashes(3))]
    change(rows[1])
    with pytest.raises(BankRejected, match=told):
        home(tmp_path).build(entries_file(tmp_path / "entries.jsonl", rows), POLICIES)
    assert not (tmp_path / "banks" / "versions").exists()


def test_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BankRejected, match=r"\.jsonl or \.parquet"):
        read_entries(tmp_path / "entries.csv", POLICIES)
    with pytest.raises(BankRejected, match="cannot be read"):
        read_entries(tmp_path / "absent.jsonl", POLICIES)
    pyarrow.parquet.write_table(pa.table({"entry_id": ["a"]}), tmp_path / "thin.parquet")
    with pytest.raises(BankRejected, match="missing: .*'pdq'"):
        read_entries(tmp_path / "thin.parquet", POLICIES)


def test_roll_back_returns_to_the_version_before(tmp_path: Path) -> None:
    versions = home(tmp_path)
    first, second = (built(tmp_path, versions, seed=seed) for seed in (1, 2))
    with pytest.raises(BankRejected, match="no version to roll back to"):
        versions.roll_back()
    versions.activate(first)
    versions.activate(second)
    versions.activate(second)
    assert versions.roll_back().version == first
    with pytest.raises(BankRejected, match="no version to roll back to"):
        versions.roll_back()
    assert versions.active().version == first  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["hashes.npy", "order.npy", "starts.npy", "ids.npy", "entries.parquet", "manifest.json"]
)
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_damaged_version_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    versions = home(tmp_path)
    first, second = (built(tmp_path, versions, seed=seed) for seed in (1, 2))
    versions.activate(first)
    path = folder_of(tmp_path, second) / name
    path.chmod(0o644)
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "altered" else b""))
    with pytest.raises(BankRejected, match="build the version again"):
        versions.activate(second)
    assert versions.active().version == first  # type: ignore[union-attr]
    # What the message says helps: the same entries make way for a whole version.
    assert built(tmp_path, versions, seed=2) == second
    assert versions.activate(second).version == second


def test_a_foreign_file_in_a_version_is_refused(tmp_path: Path) -> None:
    versions = home(tmp_path)
    version = built(tmp_path, versions)
    (folder_of(tmp_path, version) / "more.npy").write_bytes(b"")
    with pytest.raises(BankRejected, match="not its own"):
        versions.activate(version)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", ".building-x", "0" * 64])
def test_names_of_no_version_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BankRejected):
        home(tmp_path).activate(name)


def test_damaged_state_is_refused(tmp_path: Path) -> None:
    versions = home(tmp_path)
    versions.activate(built(tmp_path, versions))
    versions.active_file.write_text("{")
    with pytest.raises(BankRejected, match="activate a version again"):
        versions.active()


def test_switches_keep_their_history_and_are_checked(tmp_path: Path) -> None:
    versions = home(tmp_path)
    with pytest.raises(BankRejected, match="no version is active"):
        versions.switch(["e1"], is_enabled=False, reason="a false alarm", by="ana")
    versions.activate(built(tmp_path, versions))
    versions.switch(["e1", "e2"], is_enabled=False, reason="a false alarm", by="ana")
    state = versions.switch(["e2"], is_enabled=True, reason="it was right", by="ben")
    held = versions.switches(state).entries
    assert {name: one.is_enabled for name, one in held.items()} == {"e1": False, "e2": True}
    assert len(list((tmp_path / "banks" / "switches").iterdir())) == 2
    with pytest.raises(BankRejected, match=r"no entry \['x', 'e1e1e1'\]"):
        versions.switch(["e1", "x", "e1e1e1"], is_enabled=True, reason="it was right", by="ben")
    with pytest.raises(ValidationError, match="reason"):
        versions.switch(["e1"], is_enabled=True, reason="", by="ben")
    path = tmp_path / "banks" / "switches" / "00000002.json"
    path.write_text(json.dumps({"number": 2, "entries": {}}))
    with pytest.raises(BankRejected, match="was altered"):
        versions.switches(state)
    path.unlink()
    with pytest.raises(BankRejected, match="bring the file back"):
        versions.switches(state)


_BUILD = """
import sys
from pathlib import Path
from moderation.bank_versions import BankVersions
from moderation.clock import SystemClock
BankVersions(Path(sys.argv[1]), SystemClock()).build(Path(sys.argv[2]), ["weapons", "spam"])
"""


def test_build_killed_midway_leaves_the_active_version(tmp_path: Path) -> None:
    versions, known = home(tmp_path), hashes(60_000)
    active = built(tmp_path, versions)
    versions.activate(active)
    rows = [entry(f"n{number}", one) for number, one in enumerate(known)]
    source = entries_file(tmp_path / "large.jsonl", rows)
    command = [sys.executable, "-c", _BUILD, str(tmp_path / "banks"), str(source)]
    builder = subprocess.Popen(command, cwd=ROOT)
    folder, deadline = tmp_path / "banks" / "versions", time.monotonic() + 60  # noqa: TID251
    while not list(folder.glob(".building-*/starts.npy")):
        assert builder.poll() is None
        assert time.monotonic() < deadline  # noqa: TID251
    os.kill(builder.pid, signal.SIGKILL)
    builder.wait()
    assert [path.name for path in folder.glob("[!.]*")] == [active]
    assert versions.active().version == active  # type: ignore[union-attr]
    assert versions.build(source, POLICIES) != active
    assert not list(folder.glob(".building-*"))


_READ = """
import sys
import numpy as np
from pathlib import Path
from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SystemClock
banks = Banks(BankVersions(Path(sys.argv[1]), SystemClock()), SystemClock())
wanted, seen = np.load(sys.argv[2]), set()
while not Path(sys.argv[3]).exists():
    banks.refresh()
    answer = banks.lookup(wanted, 90)
    assert banks.problem is None, banks.problem
    assert answer.status == "ok", answer
    seen.add((answer.version.split("+")[0], answer.matches[0].entry_id))
print(*sorted(f"{version} {entry}" for version, entry in seen), sep="\\n")
"""


def test_readers_see_one_version_or_the_other(tmp_path: Path) -> None:
    versions, known = home(tmp_path), hashes(1)[0]
    made = {}
    for name in ("a", "b"):
        source = entries_file(tmp_path / f"{name}.jsonl", [entry(name, known)])
        made[versions.build(source, POLICIES)] = name
    first, second = made
    versions.activate(first)
    np.save(tmp_path / "wanted.npy", apart(known, 31))
    paths = [str(tmp_path / name) for name in ("banks", "wanted.npy", "stop")]
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", _READ, *paths], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    held = Banks(versions, SystemClock())
    held.refresh()
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            answer = held.lookup(known, 90)
            seen.add((str(answer.version).split("+")[0], answer.matches[0].entry_id))

    thread = threading.Thread(target=read)
    thread.start()
    until = time.monotonic() + 4  # noqa: TID251
    while time.monotonic() < until:  # noqa: TID251
        versions.activate(second)
        held.refresh()
        versions.roll_back()
        held.refresh()
    stop.set()
    thread.join()
    (tmp_path / "stop").touch()
    wanted = {f"{version} {name}" for version, name in made.items()}
    for reader in readers:
        told, _ = reader.communicate(timeout=60)
        assert reader.returncode == 0
        assert set(told.split("\n")) - {""} <= wanted
    assert {f"{version} {name}" for version, name in seen} == wanted


@pytest.mark.parametrize(
    "data",
    [
        b"null",  # ends the process in Arrow's own reader, as do the next three
        b"\n null\n",
        b"\xef\xbb\xbfnull",
        b'null {"entry_id": "a"}',
        b'{"entry_id": "a"}\n[1]',
        b'{"ba\xc3k": "bad"}',
        b'{"entry_id": "\x85"}',
    ],
)
def test_entries_that_are_no_objects_or_no_text_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "entries.jsonl"
    path.write_bytes(data)
    with pytest.raises(BankRejected, match=r"entries\.jsonl: "):
        read_entries(path, POLICIES)


@pytest.mark.parametrize(("old", "new"), [(b'"e0"', b'"\x850"'), (b'"pdq": "0', b'"pdq": "\xb0')])
def test_entries_with_broken_text_are_refused(tmp_path: Path, old: bytes, new: bytes) -> None:
    row = {"entry_id": "e0", "bank": "bad", "kind": "match", "policy": POLICIES[0]}
    row |= {"pdq": "0" * 64, "quality": "60", "added_at": "2026-11-22T10:00:00Z"}
    path = tmp_path / "entries.jsonl"
    data = json.dumps(row).encode().replace(b'"60"', b"60")
    path.write_bytes(data)
    assert read_entries(path, POLICIES).table.num_rows == 1
    path.write_bytes(data.replace(old, new))
    with pytest.raises(BankRejected, match=r"entries\.jsonl: .*UTF-8"):
        read_entries(path, POLICIES)
