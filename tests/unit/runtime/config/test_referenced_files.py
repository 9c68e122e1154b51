"""Which files a configuration names, and those that are read whenever they are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.certificates import Authority
from tidegate.runtime.config.config_file import Role
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.referenced_files import read_at_use, referenced_paths


def _whole(directory: Path) -> Config:
    return Config.model_validate(
        {
            "listeners": [
                {
                    "protocol": "tls",
                    "tls": {
                        "certificates": [{"certificate": "/c", "key": "/k"}],
                        "client_ca": "/client-ca",
                    },
                }
            ],
            "auth": {"password_file": "/users", "acl_file": "/acl"},
            "admin": {"token_file": directory / "token"},
            "link": {"tls": {"certificate": "/lc", "key": "/lk", "ca": "/lca"}},
            "store": {
                "url": "rediss+sentinel://h:1/m",
                "password_file": directory / "password",
                "sentinel_password_file": "/sp",
                "tls_ca": "/sca",
            },
        }
    )


def test_every_path_is_found(tmp_path: Path) -> None:
    found = {str(path) for path in referenced_paths(_whole(tmp_path))}
    assert found >= {
        "/c",
        "/k",
        "/client-ca",
        "/users",
        "/acl",
        "/lc",
        "/lk",
        "/lca",
        "/sp",
        "/sca",
    }
    assert found >= {str(tmp_path / "token"), str(tmp_path / "password")}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("edge", ["admin.token_file", "link.tls"]),
        (
            "router",
            [
                "admin.token_file",
                "link.tls",
                "store.password_file",
                "store.sentinel_password_file",
                "store.tls",
            ],
        ),
        (
            "serve",
            [
                "admin.token_file",
                "store.password_file",
                "store.sentinel_password_file",
                "store.tls",
            ],
        ),
    ],
)
def test_each_role_reads_its_own(tmp_path: Path, role: Role, names: list[str]) -> None:
    assert [group.name for group in read_at_use(_whole(tmp_path), role)] == names


def test_a_role_without_files_reads_none() -> None:
    assert read_at_use(Config(), "router") == []


def test_tokens_and_passwords_are_checked(tmp_path: Path) -> None:
    token, password = (
        next(group for group in read_at_use(_whole(tmp_path), "router") if group.name == name)
        for name in ("admin.token_file", "store.password_file")
    )
    (tmp_path / "token").write_text(" \n")
    (tmp_path / "password").write_bytes(b"\xff")
    with pytest.raises(OSError, match="no token"):
        token.check()
    with pytest.raises(ValueError, match="utf-8"):
        password.check()
    (tmp_path / "token").write_text("x")
    (tmp_path / "password").write_text("x")
    token.check()
    password.check()


def test_certificates_that_do_not_match_are_no_good(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.client("one", "one"), authority.client("two", "two")

    def group(key: Path) -> None:
        config = Config.model_validate(
            {
                "link": {
                    "tls": {"certificate": one.certificate, "key": key, "ca": authority.certificate}
                }
            }
        )
        (found,) = read_at_use(config, "edge")
        found.check()

    group(one.key)
    with pytest.raises(ValueError, match="key values mismatch"):
        group(two.key)
