"""mosquitto's password file: parsing, and verifying one hash."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from tidegate.edge.auth.password_file import hash_password
from tidegate.edge.auth.passwords import (
    Argon2Hash,
    PasswordFile,
    PasswordFileError,
    Pbkdf2Hash,
    Sha512Hash,
    parse_hash,
)

SALT = base64.b64encode(b"123456789012").decode()
DIGEST = base64.b64encode(bytes(64)).decode()


@pytest.mark.parametrize("kind", ["sha512", "sha512-pbkdf2", "argon2id"])
def test_what_we_write_we_verify(kind: str) -> None:
    parsed = parse_hash(hash_password("pässword", kind))
    assert parsed.verify("pässword".encode())
    assert not parsed.verify(b"password")


@pytest.mark.parametrize(
    ("kind", "form"), [("sha512", Sha512Hash), ("sha512-pbkdf2", Pbkdf2Hash), (None, Pbkdf2Hash)]
)
def test_files_written_by_mosquitto_passwd_are_verified(
    tmp_path: Path, kind: str | None, form: type
) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    file = tmp_path / "users"
    file.touch(0o600)
    options = ["-H", kind] if kind else []
    for user, password in (("ann", "se cret:$"), ("bob", "ünïcode")):
        subprocess.run([tool, *options, "-b", str(file), user, password], check=True)
    parsed = PasswordFile.load(file)
    assert parsed.problems == []
    assert isinstance(parsed.users["ann"], form)
    assert parsed.users["ann"].verify(b"se cret:$")
    assert parsed.users["bob"].verify("ünïcode".encode())
    assert not parsed.users["bob"].verify(b"se cret:$")


def test_comments_and_blank_lines_are_skipped() -> None:
    file = PasswordFile.parse(f"# users\n\n  \nann: $6${SALT}${DIGEST} \r\n")
    assert list(file.users) == ["ann"]
    assert file.problems == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ann", "line 2: expected user:hash"),
        (":x", "line 2: expected user:hash"),
        ("ann:plain", "line 2: user 'ann': expected a hash that begins with $6$, $7$ or"),
        ("ann:", "line 2: user 'ann': expected a hash"),
        ("ann:$5$a$b", "line 2: user 'ann': expected a hash"),
        ("ann:$6$x", "line 2: user 'ann': malformed hash: wrong number of fields"),
        (f"ann:$6$!${DIGEST}", "line 2: user 'ann': salt or hash is not base64"),
        (f"ann:$6$${DIGEST}", "line 2: user 'ann': invalid length of the salt"),
        (f"ann:$6${SALT}${SALT}", "line 2: user 'ann': invalid length of the hash"),
        (f"ann:$7$0${SALT}${DIGEST}", "line 2: user 'ann': invalid number of iterations"),
        (f"ann:$7$x${SALT}${DIGEST}", "line 2: user 'ann': invalid number of iterations"),
        (f"ann:$7${'9' * 12}${SALT}${DIGEST}", "line 2: user 'ann': invalid number of iterations"),
        (f"ann:$7$1${SALT}", "line 2: user 'ann': malformed hash: wrong number of fields"),
        ("ann:$argon2i$v=19$m=8,t=1,p=1$YQ$YQ", "line 2: user 'ann': malformed argon2id hash"),
        ("ann:$argon2id$v=19$m=99999999,t=1,p=1$YQ$YQ", "line 2: user 'ann': argon2id memory cost"),
    ],
)
def test_a_broken_line_is_named_and_costs_only_its_user(line: str, problem: str) -> None:
    file = PasswordFile.parse(f"bob:$6${SALT}${DIGEST}\n{line}\n")
    assert list(file.users) == ["bob"]
    (found,) = file.problems
    assert found.startswith(problem)


def test_of_two_lines_for_a_user_the_later_counts() -> None:
    file = PasswordFile.parse(f"ann:$6${SALT}${DIGEST}\nann:$7$1${SALT}${DIGEST}\n")
    assert isinstance(file.users["ann"], Pbkdf2Hash)
    assert file.problems == ["line 2: duplicate user 'ann', this line is used"]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PasswordFileError, match="cannot be read: No such file"):
        PasswordFile.load(tmp_path / "none")


def test_a_line_that_is_not_utf_8_costs_only_its_user(tmp_path: Path) -> None:
    hashed = f"$6${SALT}${DIGEST}".encode()
    lines = (b"# caf\xe9", b"caf\xe9:" + hashed, b"bob:" + hashed)
    (tmp_path / "bad").write_bytes(b"\n".join(lines))
    file = PasswordFile.load(tmp_path / "bad")
    assert list(file.users) == ["bob"]
    assert file.problems == ["line 2: not UTF-8"]


def test_an_argon2_hash_with_impossible_parameters_verifies_nothing() -> None:
    assert not Argon2Hash(b"$argon2id$v=19$m=1,t=0,p=1$YWFhYWFhYWE$YWFhYWFhYWE").verify(b"x")
