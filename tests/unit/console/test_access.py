"""Users, tokens, sessions, failed logins and names of hosts, without a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tidegate.console.access import require
from tidegate.console.auth import shared
from tidegate.console.auth.attempts import BURST, MAX_REMEMBERED, REFILL_S, Attempts
from tidegate.console.auth.authority import COOKIE, Authority
from tidegate.console.auth.files import problems_of_console_files
from tidegate.console.auth.sessions import csrf_of, new_session, seal, unseal
from tidegate.console.auth.shared import Shared
from tidegate.console.auth.tokens import Token, decode, digest_of, encode, new_secret, read_tokens
from tidegate.console.auth.users import Users, read_users
from tidegate.console.caller import Role
from tidegate.console.errors import ApiError
from tidegate.console.guard import is_allowed
from tidegate.edge.auth.password_file import set_user
from tidegate.runtime.config.console import ConsoleConfig
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.access import StoreAccess

KEY = b"k" * 32


async def test_a_user_has_the_role_of_the_line_and_none_without_the_password(
    tmp_path: Path,
) -> None:
    file = tmp_path / "users"
    set_user(file, "ann", "secret", "argon2id", create=True, role="operator")
    set_user(file, "bob", "other", "argon2id")
    users = Users(file)
    assert await users.verify("ann", "secret") is Role.OPERATOR
    assert await users.verify("bob", "other") is Role.VIEWER
    for name, password in (("ann", "other"), ("eve", "secret"), ("", "")):
        assert await users.verify(name, password) is None
    set_user(file, "ann", "new", "argon2id")
    assert await users.verify("ann", "new") is Role.OPERATOR
    file.write_text("")
    assert users.role_of("ann") is None


async def test_a_file_that_became_unreadable_keeps_its_users(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "users"
    set_user(file, "ann", "secret", "argon2id", create=True, role="admin")
    users = Users(file)
    assert users.role_of("ann") is Role.ADMIN
    file.write_text(file.read_text() + "bob:$7$x\n")
    assert users.role_of("ann") is Role.ADMIN
    assert "line 2" in caplog.records[-1].__dict__["reason"]
    file.unlink()
    assert users.role_of("ann") is None


@pytest.mark.parametrize(
    "line", ["ann:plain", "ann:$7$210000$c2FsdA==$aGFzaA==", "ann:$argon2id$nonsense"]
)
def test_only_argon2id_is_accepted(tmp_path: Path, line: str) -> None:
    (tmp_path / "users").write_text(line)
    with pytest.raises(ValueError, match="line 1"):
        read_users(tmp_path / "users")


def test_a_role_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    set_user(tmp_path / "users", "ann", "x", "argon2id", create=True, role="root")
    with pytest.raises(ValueError, match="'root' is no role"):
        read_users(tmp_path / "users")


def test_a_session_is_one_only_with_its_key_until_its_end() -> None:
    session = new_session("ann", "", 1000.0)
    cookie = seal(session, KEY)
    assert unseal(cookie, [KEY], 999.0) == session
    assert unseal(cookie, [KEY], 1000.0) is None
    assert unseal(cookie, [b"other" * 8], 999.0) is None
    body, _, mac = cookie.rpartition(".")
    forged = seal(replace(session, user="root"), b"other" * 8).rpartition(".")[0]
    for value in ("", ".", body, f"{body}.", f"{forged}.{mac}", "x" * 5000, f"{body}.\udcff"):
        assert unseal(value, [KEY], 999.0) is None
    assert unseal(cookie, [b"other" * 8, KEY], 999.0) == session
    assert session.id not in csrf_of(session.id)


def unread_authority(tmp_path: Path) -> Authority:
    """Return the authority of a console that has not reached its store."""

    def access() -> StoreAccess:
        raise StoreUnavailable("connecting")

    (tmp_path / "tokens").write_text("admin of-the-file\n")
    set_user(tmp_path / "users", "ann", "secret", "argon2id", create=True, role="admin")
    return Authority(Users(tmp_path / "users"), tmp_path / "tokens", Shared(access), 3600)


def request_with(name: str = "", value: str = "") -> Request:
    headers = [(name.encode(), value.encode())] if name else []
    return Request({"type": "http", "method": "GET", "headers": headers, "client": ("::1", 1)})


async def test_nobody_is_refused_for_good_before_the_store_was_read(tmp_path: Path) -> None:
    authority = unread_authority(tmp_path)
    cookie = f"{COOKIE}={seal(new_session('ann', '', 1e12), KEY)}"
    for request in (request_with("cookie", cookie), request_with("authorization", "Bearer other")):
        with pytest.raises(ApiError, match="has not read its store yet") as error:
            await authority.identify(request)
        assert (error.value.status, error.value.headers) == (503, {"Retry-After": "1"})
    with pytest.raises(ApiError) as error:
        await authority.identify(request_with())
    assert error.value.status == 401
    of_file = request_with("authorization", "Bearer of-the-file")
    assert (await authority.identify(of_file)).role is Role.ADMIN
    _, sealed = await authority.login(request_with(), "ann", "secret")
    caller = await authority.identify(request_with("cookie", f"{COOKIE}={sealed}"))
    assert caller.name == "ann"


async def test_tokens_are_not_judged_before_the_store_was_read(tmp_path: Path) -> None:
    authority = unread_authority(tmp_path)
    for _ in range(BURST + 1):
        # No failed logins: nobody is kept waiting for them afterwards.
        with pytest.raises(ApiError) as error:
            await authority.login_with_token(request_with(), "of-the-store")
        assert error.value.status == 503
    for call in (
        authority.tokens(),
        authority.delete_token("0123"),
        authority.make_token("ci", Role.VIEWER, "ann", 0.0),
    ):
        with pytest.raises(ApiError) as error:
            await call
        assert error.value.status == 503
    assert (await authority.login_with_token(request_with(), "of-the-file"))[0].role is Role.ADMIN


class StoredState:
    """What the store has for consoles, which may be away."""

    def __init__(self) -> None:
        self.is_away = True
        self.values: dict[bytes, bytes] = {}

    def access(self) -> Any:
        """Return the connections, as a console asks for them."""
        if self.is_away:
            raise StoreUnavailable("connecting")
        return self

    async def read(self, _prefix: bytes, command: bytes, key: bytes, *_: object) -> Any:
        """Read a value; hashes and sorted sets are empty."""
        return self.values.get(key) if command == b"GET" else []

    async def command(
        self, _prefix: bytes, _set: bytes, key: bytes, value: bytes, _: bytes
    ) -> None:
        """Set a value, if there is none."""
        self.values.setdefault(key, value)


async def cookie_after(authority: Authority, cookie: str) -> str:
    """Make a request with a cookie, as a viewer; return the one that the answer sets."""
    request = request_with("cookie", f"{COOKIE}={cookie}")
    parts = SimpleNamespace(authority=authority)
    request.scope["app"] = SimpleNamespace(state=SimpleNamespace(parts=parts))
    request.scope["path"], request.scope["server"] = "/", ("127.0.0.1", 80)
    response = Response()
    await require(Role.VIEWER)(request, response)
    header = response.headers.get("set-cookie", "")
    assert not header or "HttpOnly" in header
    return header.removeprefix(f"{COOKIE}=").partition(";")[0]


async def test_a_session_from_before_the_store_was_read_outlives_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "RETRY_S", 0.0)
    set_user(tmp_path / "users", "ann", "secret", "argon2id", create=True, role="viewer")
    store = StoredState()

    def console() -> Authority:
        return Authority(Users(tmp_path / "users"), None, Shared(store.access), 3600)

    first = console()
    _, own = await first.login(request_with(), "ann", "secret")
    assert await cookie_after(first, own) == ""
    store.is_away = False
    renewed = await cookie_after(first, own)
    assert renewed not in {"", own}
    assert await cookie_after(first, renewed) == ""
    # The next process, and another replica.
    assert await cookie_after(console(), renewed) == ""
    with pytest.raises(ApiError) as error:
        await cookie_after(console(), own)
    assert error.value.status == 401


def test_a_token_is_kept_without_its_secret() -> None:
    secret = new_secret()
    token = Token("id", "ci", Role.OPERATOR, digest_of(secret), 1.0, "ann", 10.0)
    assert decode(encode(token)) == token
    assert secret.encode() not in encode(token)
    assert (token.is_valid(9.0), token.is_valid(10.0)) == (True, False)
    assert decode(b"{}") is None
    assert decode(encode(token).replace(b"operator", b"emperor")) is None


def test_tokens_of_a_file_have_roles(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("# comment\n\nadmin one\n  viewer  two \n")
    assert [(token.role, token.digest) for token in read_tokens(file)] == [
        (Role.ADMIN, digest_of("one")),
        (Role.VIEWER, digest_of("two")),
    ]
    file.write_text("admin\n")
    with pytest.raises(ValueError, match="line 1: expected ROLE TOKEN"):
        read_tokens(file)


def test_files_that_cannot_be_used_are_found_before_somebody_logs_in(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("ann:plain\n")
    console = ConsoleConfig(users_file=tmp_path / "users", tokens_file=tmp_path / "none")
    users, tokens = problems_of_console_files(console)
    assert users.startswith(f"console.users_file: {tmp_path}/users, line 1: ")
    assert tokens == f"console.tokens_file: {tmp_path}/none: No such file or directory"
    assert list(problems_of_console_files(ConsoleConfig())) == []


def test_failures_are_forgiven_one_at_a_time_and_memory_is_bounded() -> None:
    attempts = Attempts()
    for _ in range(BURST):
        assert attempts.wait_s("a", 0.0) == 0
        attempts.failed("a", 0.0)
    assert attempts.wait_s("a", 0.0) == REFILL_S
    assert attempts.wait_s("b", 0.0) == 0
    assert attempts.wait_s("a", REFILL_S) == 0
    attempts.failed("a", REFILL_S)
    assert attempts.wait_s("a", REFILL_S) > 0
    for number in range(MAX_REMEMBERED + 10):
        attempts.failed(f"x{number}", 0.0)
    assert len(attempts._failures) == MAX_REMEMBERED


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:18080", True),
        ("[::1]:18080", True),
        ("localhost", True),
        ("LOCALHOST.:1", True),
        ("console.example", True),
        ("Console.Example:443", True),
        ("a.iot.example", True),
        ("iot.example", False),
        ("xiot.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_only_addresses_localhost_and_named_hosts_are_allowed(host: str, allowed: bool) -> None:
    assert is_allowed(host, ["console.example", "*.iot.example"]) is allowed
