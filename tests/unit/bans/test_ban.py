"""Bans: what may be banned, how it is written, and what is stored."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.bans.ban import MAX_TEXT, Ban, BanKind


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10.1.2.3", "10.1.2.3"),
        (" 10.1.2.3/32", "10.1.2.3"),
        ("10.1.2.3/24", "10.1.2.0/24"),
        ("2001:DB8::1", "2001:db8::1"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.0/120", "10.1.2.0/24"),
    ],
)
def test_addresses_have_one_form(text: str, value: str) -> None:
    ban = Ban.make(BanKind.ADDRESS, text)
    assert ban.value == value
    assert ban.id == Ban.make(BanKind.ADDRESS, value, reason="another").id


@pytest.mark.parametrize(
    ("kind", "value", "options", "says"),
    [
        (BanKind.ADDRESS, "10.1.2", {}, "no IP address"),
        (BanKind.ADDRESS, "0.0.0.0/0", {}, "every address"),
        (BanKind.ADDRESS, "::/0", {}, "every address"),
        (BanKind.ADDRESS, "::ffff:0:0/96", {}, "every address"),
        (BanKind.CLIENT, "", {}, "a ban needs a client"),
        (BanKind.USER, "u" * 1025, {}, "longer than"),
        (BanKind.USER, "u", {"until": 5.0, "at": 5.0}, "has passed"),
    ],
)
def test_what_bans_nobody_or_everybody_is_refused(
    kind: BanKind, value: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Ban.make(kind, value, **options)


def test_a_ban_survives_its_stored_form() -> None:
    ban = Ban.make(
        BanKind.CLIENT, "söx\0", mount_point="a/", reason="r" * 999, until=7.5, at=1.0, by="ann"
    )
    assert len(ban.reason) == MAX_TEXT
    assert Ban.decode(ban.encode()) == ban
    shown = ban.to_json()
    assert (shown["client"], shown["mount_point"], shown["until"]) == ("söx\0", "a/", 7.5)
    user = Ban.make(BanKind.USER, "ann", mount_point="ignored")
    assert user.to_json() | {"reason": ""} == {
        "id": user.id,
        "user": "ann",
        "reason": "",
        "until": None,
        "at": 0.0,
        "by": "",
    }
    assert len({ban.id, user.id, Ban.make(BanKind.CLIENT, "söx\0").id}) == 3


@pytest.mark.parametrize(
    "stored", [b"", b"[]", b"{}", b'{"kind":"tenant"}', Ban(BanKind.ADDRESS, "x").encode()]
)
def test_a_ban_of_another_version_bans_nobody(stored: bytes) -> None:
    assert Ban.decode(stored) is None
