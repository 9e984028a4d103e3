"""Switches of the banks: none is lost or written over, whatever becomes of the file that names them."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation.bank_versions import BankVersions
from moderation.banks import Banks
from moderation.clock import SimulatedClock
from moderation.errors import BankRejected
from tests.bank_world import POLICIES, entries_file, entry, hashes

CLOCK = SimulatedClock(datetime(2026, 11, 1, tzinfo=UTC))
KNOWN = hashes(40)
Loss = Callable[[Path], object]
LOSSES = [
    Path.unlink,
    lambda path: path.write_bytes(b"garbage"),
    lambda path: path.write_bytes(b""),
]


def built(tmp_path: Path, num: int = 40) -> tuple[BankVersions, str]:
    versions = BankVersions(tmp_path / "banks", CLOCK)
    rows = [entry(f"e{number}", one) for number, one in enumerate(KNOWN[:num])]
    return versions, versions.build(entries_file(tmp_path / "entries.jsonl", rows), POLICIES)


def switch_off(versions: BankVersions, *names: str) -> None:
    versions.switch(names, is_enabled=False, reason="a false alarm", by="ana")


def files_of(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "banks" / "switches"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("loss", LOSSES, ids=["gone", "damaged", "emptied"])
def test_what_was_switched_off_stays_off_when_the_state_is_lost(
    tmp_path: Path, loss: Loss, caplog: pytest.LogCaptureFixture
) -> None:
    versions, version = built(tmp_path)
    versions.activate(version)
    switch_off(versions, "e0")
    before = files_of(tmp_path)
    banks = Banks(versions, CLOCK)
    banks.refresh()
    assert banks.lookup(KNOWN[0], 90).known_bad == ()
    loss(versions.active_file)
    assert not versions.is_known()
    state = versions.activate(version)
    assert (state.version, state.switches, state.before) == (version, 1, ())
    assert "the newest switches were taken over" in caplog.text
    banks.refresh()
    assert banks.problem is None
    assert banks.lookup(KNOWN[0], 90).known_bad == ()
    assert banks.version == f"{version}+1"
    # Numbers go on, and what was written stays as it was.
    switch_off(versions, "e1")
    after = files_of(tmp_path)
    assert after.items() > before.items()
    assert sorted(after) == ["00000001.json", "00000002.json"]
    banks.refresh()
    assert [banks.lookup(one, 90).known_bad for one in KNOWN[:3]] == [(), (), ("weapons",)]


def test_a_fresh_bank_begins_without_switches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions, version = built(tmp_path)
    assert not versions.is_known()
    state = versions.activate(version)
    assert (state.switches, state.switches_digest) == (0, "")
    assert versions.is_known()
    assert not caplog.text


def test_an_older_state_put_back_writes_over_no_switches(tmp_path: Path) -> None:
    versions, version = built(tmp_path)
    versions.activate(version)
    switch_off(versions, "e0")
    older = versions.active_file.read_bytes()
    switch_off(versions, "e1")
    before = files_of(tmp_path)
    versions.active_file.write_bytes(older)
    switch_off(versions, "e2")
    assert files_of(tmp_path).items() > before.items()
    state = versions.active()
    assert state is not None
    assert state.switches == 3
    assert set(versions.switches(state).entries) == {"e0", "e2"}


def test_switches_that_cannot_be_taken_over_are_told(tmp_path: Path) -> None:
    versions, version = built(tmp_path)
    versions.activate(version)
    switch_off(versions, "e0")
    switch_off(versions, "e1")
    newest = tmp_path / "banks" / "switches" / "00000002.json"
    newest.write_bytes(newest.read_bytes()[:-9])
    versions.active_file.unlink()
    with pytest.raises(BankRejected, match="move it away to take over those before it"):
        versions.activate(version)
    assert not versions.active_file.exists()
    newest.rename(tmp_path / "away.json")
    assert versions.activate(version).switches == 1


def test_a_state_that_cannot_be_read_is_not_replaced(tmp_path: Path) -> None:
    versions, version = built(tmp_path)
    versions.active_file.mkdir()
    with pytest.raises(BankRejected, match="make it a readable file"):
        versions.activate(version)


def test_a_number_taken_meanwhile_is_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions, version = built(tmp_path)
    versions.activate(version)
    switch_off(versions, "e0")
    before = files_of(tmp_path)
    versions.active_file.unlink()
    versions.activate(version)
    # A writer on a network file system without locks may come between the look and the write.
    monkeypatch.setattr(BankVersions, "_switch_numbers", lambda self: [0])
    versions.active_file.write_text(f'{{"version": "{version}"}}')
    with pytest.raises(BankRejected, match="somebody wrote it meanwhile; switch again"):
        switch_off(versions, "e1")
    assert files_of(tmp_path) == before


def test_switches_at_once_lose_none(tmp_path: Path) -> None:
    versions, version = built(tmp_path)
    versions.activate(version)
    start = threading.Barrier(8)

    def work(first: int) -> None:
        own = BankVersions(tmp_path / "banks", CLOCK)
        start.wait()
        for number in range(first, 40, 8):
            switch_off(own, f"e{number}")

    threads = [threading.Thread(target=work, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = versions.active()
    assert state is not None
    assert state.switches == 40
    assert len(versions.switches(state).entries) == 40
    assert len(os.listdir(tmp_path / "banks" / "switches")) == 40
