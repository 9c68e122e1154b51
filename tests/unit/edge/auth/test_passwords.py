"""mosquitto's password file: parsing, verifying, and what a storm of reconnects costs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tidegate.edge.auth.password_file import hash_password
from tidegate.edge.auth.passwords import (
    Argon2Hash,
    PasswordCheck,
    PasswordFile,
    PasswordFileError,
    PasswordHash,
    PasswordVerifier,
    Pbkdf2Hash,
    Sha512Hash,
    parse_hash,
)
from tidegate.runtime.telemetry.counters import Counters

SALT = base64.b64encode(b"123456789012").decode()
DIGEST = base64.b64encode(bytes(64)).decode()


def _pbkdf2(password: str, iterations: int = 2) -> Pbkdf2Hash:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), b"salt", iterations)
    return Pbkdf2Hash(b"salt", digest, iterations)


def _sha512(password: str) -> Sha512Hash:
    return Sha512Hash(b"salt", hashlib.sha512(password.encode() + b"salt").digest())


def _verifier(**users: PasswordHash) -> tuple[PasswordVerifier, Counters]:
    counters = Counters()
    return PasswordVerifier(PasswordFile(users), counters), counters


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
    (tmp_path / "bad").write_bytes(b"a\n\xff")
    with pytest.raises(PasswordFileError, match="line 2: not UTF-8"):
        PasswordFile.load(tmp_path / "bad")


def test_an_argon2_hash_with_impossible_parameters_verifies_nothing() -> None:
    assert not Argon2Hash(b"$argon2id$v=19$m=1,t=0,p=1$YWFhYWFhYWE$YWFhYWFhYWE").verify(b"x")


def test_a_cheap_hash_is_verified_at_once() -> None:
    verifier, counters = _verifier(ann=_sha512("a"))
    assert verifier.verify_now("ann", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now("ann", b"b") is PasswordCheck.BAD_PASSWORD
    assert verifier.verify_now("eve", b"a") is PasswordCheck.UNKNOWN_USER
    assert counters.password_hashes == 3


async def test_an_accepted_password_is_hashed_once() -> None:
    verifier, counters = _verifier(ann=_pbkdf2("a"))
    assert verifier.verify_now("ann", b"a") is None
    assert await verifier.verify("ann", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now("ann", b"a") is PasswordCheck.ACCEPTED
    assert await verifier.verify("ann", b"a") is PasswordCheck.ACCEPTED
    assert counters.password_hashes == 1
    verifier.close()


async def test_a_refused_password_is_hashed_every_time() -> None:
    verifier, counters = _verifier(ann=_pbkdf2("a"))
    for _ in range(2):
        assert await verifier.verify("ann", b"b") is PasswordCheck.BAD_PASSWORD
    assert counters.password_hashes == 2
    verifier.close()


async def test_an_unknown_user_costs_a_hash_like_a_known_one() -> None:
    verifier, counters = _verifier(ann=_pbkdf2("a"))
    assert verifier.verify_now("eve", b"a") is None
    assert await verifier.verify("eve", b"a") is PasswordCheck.UNKNOWN_USER
    assert counters.password_hashes == 1
    assert await _verifier()[0].verify("eve", b"a") is PasswordCheck.UNKNOWN_USER
    verifier.close()


async def test_the_same_password_at_the_same_time_is_hashed_once() -> None:
    verifier, counters = _verifier(ann=_pbkdf2("a", 2000))
    verdicts = await asyncio.gather(*(verifier.verify("ann", b"a") for _ in range(50)))
    assert set(verdicts) == {PasswordCheck.ACCEPTED}
    assert counters.password_hashes == 1
    verifier.close()


async def test_one_client_that_goes_away_does_not_cancel_the_others_hash() -> None:
    verifier, _ = _verifier(ann=_pbkdf2("a", 20_000))
    first = asyncio.create_task(verifier.verify("ann", b"a"))
    second = asyncio.create_task(verifier.verify("ann", b"a"))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is PasswordCheck.ACCEPTED
    verifier.close()


async def test_too_many_waiting_hashes_are_refused_as_busy() -> None:
    counters = Counters()
    file = PasswordFile({"ann": _pbkdf2("a", 50_000)})
    verifier = PasswordVerifier(file, counters, threads=1, max_pending=2)
    verdicts = await asyncio.gather(
        *(verifier.verify("ann", password) for password in (b"1", b"2", b"3"))
    )
    assert verdicts == [PasswordCheck.BAD_PASSWORD, PasswordCheck.BAD_PASSWORD, PasswordCheck.BUSY]
    assert await verifier.verify("ann", b"a") is PasswordCheck.ACCEPTED
    verifier.close()


async def test_a_changed_hash_makes_the_old_password_bad_and_others_stay_remembered() -> None:
    verifier, counters = _verifier(ann=_pbkdf2("a"), bob=_pbkdf2("b"))
    await verifier.verify("ann", b"a")
    await verifier.verify("bob", b"b")
    verifier.replace(PasswordFile({"ann": _pbkdf2("new"), "bob": _pbkdf2("b")}))
    assert verifier.verify_now("bob", b"b") is PasswordCheck.ACCEPTED
    assert await verifier.verify("ann", b"a") is PasswordCheck.BAD_PASSWORD
    assert counters.password_hashes == 3
    verifier.replace(PasswordFile({"bob": _pbkdf2("b")}))
    assert await verifier.verify("ann", b"new") is PasswordCheck.UNKNOWN_USER
    verifier.close()


async def test_what_is_remembered_is_bounded() -> None:
    counters = Counters()
    users: dict[str, PasswordHash] = {name: _pbkdf2(name) for name in "abc"}
    verifier = PasswordVerifier(PasswordFile(users), counters, max_remembered=2)
    for name in "abc":
        await verifier.verify(name, name.encode())
    assert verifier.verify_now("a", b"a") is None
    assert verifier.verify_now("c", b"c") is PasswordCheck.ACCEPTED
    verifier.close()


async def test_nothing_is_remembered_when_that_is_switched_off() -> None:
    verifier = PasswordVerifier(PasswordFile({"a": _pbkdf2("a")}), Counters(), max_remembered=0)
    assert await verifier.verify("a", b"a") is PasswordCheck.ACCEPTED
    assert verifier.verify_now("a", b"a") is None
    verifier.close()
