"""Changing a password file: what is kept, what is refused, and that mosquitto can read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tidegate.edge.auth import password_file as files
from tidegate.edge.auth.passwords import PasswordFile, PasswordFileError, Sha512Hash


def _users(path: Path) -> PasswordFile:
    return PasswordFile.load(path)


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "users"
    assert not files.set_user(path, "ann", "a", "sha512", create=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _users(path).users["ann"].verify(b"a")


def test_the_mode_of_an_old_file_and_its_other_lines_stay(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# who\nbob:$6$x\nann:old\n")
    path.chmod(0o640)
    assert files.set_user(path, "ann", "a", "sha512")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# who", "bob:$6$x"]
    assert lines[2].startswith("ann:$6$")
    assert os.listdir(tmp_path) == ["users"]  # noqa: PTH208 - names only


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.touch()
    link.symlink_to(real)
    files.set_user(link, "ann", "a", "sha512")
    assert link.is_symlink()
    assert "ann" in _users(real).users


def test_creating_begins_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("bob:x\n")
    files.set_user(path, "ann", "a", "sha512", create=True)
    assert list(_users(path).users) == ["ann"]


def test_deleting_takes_one_user_out(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("ann:x\nbob:y\n")
    files.delete_user(path, "ann")
    assert path.read_text() == "bob:y\n"
    with pytest.raises(PasswordFileError, match="has no user 'ann'"):
        files.delete_user(path, "ann")


def test_a_plain_file_is_hashed_once(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text("# plain\nann:se:cret\r\nbob:b")
    assert files.hash_plain_file(path, "sha512") == 2
    users = _users(path).users
    assert users["ann"].verify(b"se:cret")
    assert isinstance(users["bob"], Sha512Hash)
    assert files.hash_plain_file(path, "sha512") == 0


@pytest.mark.parametrize("text", ["ann", "ann:", "#x\n:b"])
def test_a_plain_file_with_a_broken_line_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text(text)
    with pytest.raises(PasswordFileError, match=r"line \d"):
        files.hash_plain_file(path, "sha512")
    assert path.read_text() == text


@pytest.mark.parametrize("name", ["", " ann", "a:b", "#ann", "a\nb", "a" * 70_000])
def test_a_name_that_no_line_can_hold_is_refused(name: str) -> None:
    with pytest.raises(PasswordFileError):
        files.check_username(name)


@pytest.mark.parametrize("password", ["", "a" * 70_000])
def test_a_password_that_no_client_can_send_is_refused(password: str) -> None:
    with pytest.raises(PasswordFileError):
        files.hash_password(password, "sha512")


def test_a_missing_file_is_not_made_without_being_asked(tmp_path: Path) -> None:
    with pytest.raises(PasswordFileError, match="does not exist; -c creates it"):
        files.set_user(tmp_path / "none", "ann", "a", "sha512")
    with pytest.raises(PasswordFileError, match="cannot be read"):
        files.set_user(tmp_path, "ann", "a", "sha512")
    with pytest.raises(PasswordFileError, match="cannot be written"):
        files.set_user(tmp_path / "no" / "file", "ann", "a", "sha512", create=True)


def test_lines_that_are_not_utf_8_stay(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"# caf\xe9\nann:x\nbob:y\n")
    files.delete_user(tmp_path / "x", "ann")
    assert (tmp_path / "x").read_bytes() == b"# caf\xe9\nbob:y\n"
