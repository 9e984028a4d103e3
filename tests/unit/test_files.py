"""Files that one process replaces and others follow: old or new, never half; a failed look is tried again."""

import os
from pathlib import Path

import pytest

from moderation.files import FollowedFile, create_file, replace_file
from tests.small_disk import fill, nothing_opens, small_disk


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "table.json"
    for content in (b"one", b"another"):
        replace_file(path, content)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644
    assert _names(path.parent) == ["table.json"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        path = disk / "table.json"
        replace_file(path, b"old")
        filler = fill(disk)
        with pytest.raises(OSError, match="No space left"):
            replace_file(path, b"new" * 10_000)
        assert path.read_bytes() == b"old"
        assert _names(disk) == [filler.name, "table.json"]


def test_what_is_written_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        seen.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        seen.append("name")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    replace_file(tmp_path / "table.json", b"{}")
    assert seen == ["file", "name", "folder"]


def test_the_first_to_create_a_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    assert create_file(path, b"first")
    assert not create_file(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert _names(tmp_path) == ["secret"]


def test_a_followed_file_is_read_when_it_changed(tmp_path: Path) -> None:
    file = FollowedFile(tmp_path / "table.json")
    with pytest.raises(FileNotFoundError):
        file.read()
    file.path.write_bytes(b"one")
    assert [file.read(), file.read()] == [b"one", None]
    replace_file(file.path, b"two")
    assert [file.read(), file.read()] == [b"two", None]


def test_a_followed_file_is_read_again_when_a_look_failed(tmp_path: Path) -> None:
    file = FollowedFile(tmp_path / "table.json")
    file.path.write_bytes(b"one")
    with nothing_opens(), pytest.raises(OSError, match="Too many open files"):
        file.read()
    assert [file.read(), file.read()] == [b"one", None]
    file.path.rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        file.read()
    (tmp_path / "away").rename(file.path)
    assert [file.read(), file.read()] == [b"one", None]


def test_a_change_is_told_until_it_is_settled(tmp_path: Path) -> None:
    file = FollowedFile(tmp_path / "ACTIVE")
    file.path.write_bytes(b"one")
    facts = file.change()
    assert facts is not None
    assert file.change() == facts
    file.settle(facts)
    assert file.change() is None
