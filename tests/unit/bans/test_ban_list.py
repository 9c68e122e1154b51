"""Whom a list of bans names."""

from __future__ import annotations

import pytest

from tidegate.bans.ban import Ban, BanKind
from tidegate.bans.ban_list import BanList

BANS = BanList(
    [
        Ban.make(BanKind.CLIENT, "c"),
        Ban.make(BanKind.CLIENT, "m", mount_point="a/"),
        Ban.make(BanKind.USER, "ann"),
        Ban.make(BanKind.ADDRESS, "10.1.2.3"),
        Ban.make(BanKind.ADDRESS, "10.2.0.0/16"),
        Ban.make(BanKind.ADDRESS, "2001:db8::/32"),
        Ban.make(BanKind.USER, "over", until=50.0),
    ]
)


@pytest.mark.parametrize(
    ("mount_point", "client_id", "user", "address", "is_banned"),
    [
        ("", "c", None, "1.1.1.1", True),
        ("a/", "c", None, "1.1.1.1", False),
        ("a/", "m", None, "1.1.1.1", True),
        ("", "m", None, "1.1.1.1", False),
        ("", "x", "ann", "1.1.1.1", True),
        ("", "ann", "c", "1.1.1.1", False),
        ("", "x", None, "10.1.2.3", True),
        ("", "x", None, "10.1.2.4", False),
        ("", "x", None, "10.2.255.1", True),
        ("", "x", None, "2001:db8:1::9", True),
        ("", "x", None, "2001:db9::", False),
        ("", "x", None, "fe80::1%eth0", False),
        ("", "x", None, "/run/socket", False),
        ("", "x", "over", "", False),
    ],
)
def test_who_is_banned(
    mount_point: str, client_id: str, user: str | None, address: str, is_banned: bool
) -> None:
    assert bool(BANS.find(mount_point, client_id, user, address, 50.0)) is is_banned


def test_a_ban_ends_at_its_time() -> None:
    assert BANS.find("", "x", "over", "", 49.9) is not None
    assert not BanList()
