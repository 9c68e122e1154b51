"""A directory with backups: a backup is there whole or not at all; which are listed and deleted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tidegate.backup.backup import delete_old
from tidegate.backup.failure import BackupFailed, Reason
from tidegate.backup.file_format import Head, Writer
from tidegate.backup.listing import backups_in, chosen
from tidegate.backup.opening import open_target
from tidegate.backup.progress import Progress
from tidegate.backup.target import Directory, default_name, is_name


@pytest.fixture
def target(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "backups")


def write(target: Directory, name: str, server_ms: int = 1) -> None:
    with target.new_file(name) as file:
        with file.open("wb") as stream:
            Writer(stream, Head(name, "1.0", 2, 64, f"t{server_ms}", server_ms, 1)).end()
        target.put(file, name)


def files(target: Directory) -> list[str]:
    return sorted(file.name for file in Path(str(target)).iterdir())


def test_a_backup_has_its_name_when_it_is_whole(target: Directory) -> None:
    with target.new_file("one") as file:
        file.write_bytes(b"half")
        assert target.names() == []
    assert files(target) == []
    write(target, "one")
    assert (target.names(), files(target)) == (["one"], ["one.tgbackup"])


def test_a_name_is_not_used_twice(target: Directory) -> None:
    write(target, "one")
    before = (Path(str(target)) / "one.tgbackup").read_bytes()
    with pytest.raises(BackupFailed) as failed, target.new_file("one"):
        pass
    assert failed.value.reason is Reason.NAME_EXISTS
    with target.new_file("two") as file:
        file.write_bytes(b"x")
        with pytest.raises(BackupFailed):
            target.put(file, "one")
    assert (Path(str(target)) / "one.tgbackup").read_bytes() == before


def test_what_a_killed_backup_left_is_removed_after_a_day(target: Directory) -> None:
    write(target, "one")
    old, new = (Path(str(target)) / f".{name}.tgbackup.part" for name in ("old", "new"))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    write(target, "two")
    assert (old.exists(), new.exists()) == (False, True)


def test_backups_are_listed_newest_first_and_the_newest_complete_one_is_the_latest(
    target: Directory,
) -> None:
    write(target, "b", 1)
    write(target, "a", 2)
    write(target, "c", 3)
    whole = Path(str(target)) / "c.tgbackup"
    whole.write_bytes(whole.read_bytes()[:-1])
    (Path(str(target)) / "notes.txt").write_text("x")
    (Path(str(target)) / "other.tgbackup").write_text("not ours")
    found = backups_in(target)
    assert [(one.name, one.complete) for one in found] == [
        ("c", False),
        ("a", True),
        ("b", True),
        ("other", False),
    ]
    assert chosen(target, "latest") == "a"
    assert chosen(target, "b") == "b"


def test_only_complete_backups_are_deleted(target: Directory) -> None:
    for number in range(1, 5):
        write(target, f"n{number}", number)
    (Path(str(target)) / "other.tgbackup").write_text("not ours")
    deleted = delete_old(target, 2, Progress(lambda *_: None))
    assert deleted == ["n2", "n1"]
    assert sorted(target.names()) == ["n3", "n4", "other"]


def test_a_directory_that_is_not_there_has_no_backups(target: Directory) -> None:
    with pytest.raises(BackupFailed) as failed:
        chosen(target, "latest")
    assert failed.value.reason is Reason.NOT_FOUND
    with pytest.raises(BackupFailed) as failed, target.local_file("one"):
        pass
    assert failed.value.reason is Reason.NOT_FOUND


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_named(target: Directory) -> None:
    path = Path(str(target))
    path.mkdir()
    path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(BackupFailed, match="cannot be written: Permission denied") as failed:
        write(target, "one")
    assert failed.value.reason is Reason.TARGET_FAILED


def test_a_target_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BackupFailed, match="cannot be written") as failed:
        write(Directory(tmp_path / "file"), "one")
    assert failed.value.reason is Reason.TARGET_FAILED


@pytest.mark.parametrize("name", ["", ".x", "a/b", "..", "a b", "-x", "x" * 129])
def test_names_that_are_refused(name: str) -> None:
    assert not is_name(name)


def test_default_names_are_ordered_as_times_are() -> None:
    assert default_name(1_772_366_400.9) == "20260301T120000Z"
    assert is_name(default_name(0))


@pytest.mark.parametrize("text", ["http://x/y", "s3:", "s3:bucket", "s3:///x", "s3://u:p@b/x"])
def test_targets_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        open_target(text)
