"""Who a client is: anonymous rules, certificates, passwords."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from tidegate.edge.auth.authentication import Authenticator, Decision
from tidegate.edge.auth.password_file import delete_user, set_user
from tidegate.edge.auth.passwords import PasswordFileError
from tidegate.edge.channel import Peer, TlsPeer
from tidegate.mqtt.enums import ReasonCode
from tidegate.runtime.config.model import AuthConfig, ListenerConfig
from tidegate.runtime.telemetry.counters import AUTH_FAILURE_REASONS, Counters

PEER = Peer("127.0.0.1", 5, "tcp", "tcp-1883")
LISTENER = ListenerConfig()


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    set_user(path, "ann", "a", "sha512", create=True)
    return path


def _now(
    auth: AuthConfig,
    username: str | None = None,
    password: bytes | None = None,
    peer: Peer = PEER,
    **listener: Any,
) -> Decision:
    authenticator = Authenticator(auth, Counters())
    decision = authenticator.authenticate_now(
        "c", username, password, peer, ListenerConfig.model_validate(listener)
    )
    assert decision is not None
    if not decision.allowed:
        assert decision.reason in AUTH_FAILURE_REASONS
    return decision


def _identity(name: str, certificates: str = "required") -> dict[str, Any]:
    return {
        "tls": {
            "identity_as_username": name,
            "client_certificates": certificates,
            "client_ca": "ca.pem",
        }
    }


@pytest.mark.parametrize(
    ("general", "own", "allowed"),
    [
        (False, None, False),
        (True, None, True),
        (False, True, True),
        (True, False, False),
    ],
)
def test_the_listener_overrides_whether_anonymous_clients_may_connect(
    general: bool, own: bool | None, allowed: bool
) -> None:
    decision = _now(AuthConfig(allow_anonymous=general), allow_anonymous=own)
    assert decision.allowed is allowed
    assert decision.username is None
    if not allowed:
        assert (decision.reason_code, decision.reason) == (ReasonCode.NOT_AUTHORIZED, "anonymous")


def test_a_user_name_without_a_password_file_counts_where_anonymous_clients_do() -> None:
    assert _now(AuthConfig(allow_anonymous=True), "ann", b"x") == Decision(True, "ann")
    assert _now(AuthConfig(), "ann", b"x").reason == "unknown_user"


def test_an_empty_user_name_is_none(users: Path) -> None:
    assert _now(AuthConfig(password_file=users, allow_anonymous=True), "", b"x").username is None
    assert _now(AuthConfig(password_file=users), "", b"x").reason == "anonymous"


def test_the_password_file_decides_about_user_names(users: Path) -> None:
    auth = AuthConfig(password_file=users, allow_anonymous=True)
    assert _now(auth, "ann", b"a") == Decision(True, "ann", by_password=True)
    for username, password, reason in (
        ("ann", b"b", "bad_password"),
        ("eve", b"a", "unknown_user"),
        ("ann", None, "no_password"),
    ):
        decision = _now(auth, username, password)
        assert (decision.reason_code, decision.reason) == (
            ReasonCode.BAD_USER_NAME_OR_PASSWORD,
            reason,
        )


async def test_a_costly_hash_is_left_to_the_waiting_path(users: Path) -> None:
    set_user(users, "bob", "b", "sha512-pbkdf2")
    authenticator = Authenticator(AuthConfig(password_file=users), Counters())
    arguments = ("c", "bob", b"b", PEER, LISTENER)
    assert authenticator.authenticate_now(*arguments) is None
    assert await authenticator.authenticate(*arguments) == Decision(True, "bob", by_password=True)
    assert authenticator.authenticate_now(*arguments) == Decision(True, "bob", by_password=True)
    wrong = await authenticator.authenticate("c", "bob", b"x", PEER, LISTENER)
    assert wrong.reason == "bad_password"
    assert (await authenticator.authenticate("c", "ann", b"a", PEER, LISTENER)).allowed
    authenticator.close()


async def test_too_busy_is_said_to_be_so(users: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_user(users, "bob", "b", "sha512-pbkdf2")
    auth = AuthConfig(password_file=users, max_pending_passwords=1)
    authenticator = Authenticator(auth, Counters())
    monkeypatch.setattr(authenticator._verifier, "_threads", 0)
    monkeypatch.setattr(authenticator._verifier, "_max_pending", 0)
    decision = await authenticator.authenticate("c", "bob", b"b", PEER, LISTENER)
    assert (decision.reason_code, decision.reason) == (ReasonCode.SERVER_BUSY, "busy")


def test_a_certificate_names_the_user_without_a_password() -> None:
    peer = Peer(
        "127.0.0.1",
        5,
        "tls",
        "tls-8883",
        tls=TlsPeer("TLSv1.3", "dev-1", "CN=dev-1,O=x"),
    )
    assert _now(AuthConfig(), "other", b"x", peer, **_identity("cn")) == Decision(True, "dev-1")
    assert _now(AuthConfig(), None, None, peer, **_identity("dn")).username == "CN=dev-1,O=x"


def test_a_certificate_without_the_name_asked_for_is_refused() -> None:
    peer = Peer("127.0.0.1", 5, "tls", "x", tls=TlsPeer(certificate_subject="O=x"))
    assert _now(AuthConfig(allow_anonymous=True), None, None, peer, **_identity("cn")).reason == (
        "no_certificate"
    )
    assert not _now(AuthConfig(allow_anonymous=True), None, None, **_identity("cn")).allowed


def test_where_certificates_are_optional_one_without_is_judged_like_any_other(users: Path) -> None:
    auth = AuthConfig(password_file=users)
    assert _now(auth, "ann", b"a", **_identity("cn", "optional")).username == "ann"
    assert not _now(auth, **_identity("cn", "optional")).allowed


def test_a_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(PasswordFileError, match=r"password_file .*none: cannot be read"):
        Authenticator(AuthConfig(password_file=tmp_path / "none"), Counters())


def test_a_reload_takes_new_users_and_an_unreadable_file_changes_nothing(users: Path) -> None:
    authenticator = Authenticator(AuthConfig(password_file=users), Counters())
    assert authenticator.files() == [users]
    set_user(users, "bob", "b", "sha512")
    authenticator.reload(users)
    users.unlink()
    with pytest.raises(PasswordFileError):
        authenticator.reload(users)
    decision = authenticator.authenticate_now("c", "bob", b"b", PEER, LISTENER)
    assert decision == Decision(True, "bob", by_password=True)


async def test_a_user_that_goes_while_its_password_is_verified_is_refused(users: Path) -> None:
    set_user(users, "bob", "b", "sha512-pbkdf2")
    authenticator = Authenticator(AuthConfig(password_file=users), Counters())
    verifying = asyncio.ensure_future(authenticator.authenticate("c", "bob", b"b", PEER, LISTENER))
    await asyncio.sleep(0)
    delete_user(users, "bob")
    authenticator.reload(users)
    assert (await verifying).reason == "unknown_user"
    assert authenticator.knows("ann", LISTENER)
    assert not authenticator.knows("bob", LISTENER)
    assert not authenticator.knows(None, LISTENER)


def test_broken_lines_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "users"
    path.write_text("ann:plain\n")
    with caplog.at_level(logging.WARNING):
        Authenticator(AuthConfig(password_file=path), Counters())
    (record,) = caplog.records
    assert record.__dict__["problem"].startswith("line 1: user 'ann'")
    assert "plain" not in str(record.__dict__)


def test_without_a_file_there_is_nothing_to_watch_or_close() -> None:
    authenticator = Authenticator(AuthConfig(), Counters())
    authenticator.close()
    assert authenticator.files() == []
