"""The keys of sessions."""

from __future__ import annotations

import pytest

from tidegate.core.session_key import log_fields, parts_of, session_key


@pytest.mark.parametrize("mount_point", ["", "a/", "a/b", "ü/"])
@pytest.mark.parametrize("client_id", ["c", "a/c", "ü:1|2 3\n", ""])
def test_a_key_has_both_parts(mount_point: str, client_id: str) -> None:
    assert parts_of(session_key(mount_point, client_id)) == (mount_point, client_id)


def test_clients_of_two_mount_points_have_two_keys() -> None:
    pairs = [("", "b/c"), ("b/", "c"), ("b", "/c"), ("", "c"), ("b/c", "")]
    assert len({session_key(*pair) for pair in pairs}) == len(pairs)


def test_keys_sort_by_mount_point_then_client_identifier() -> None:
    pairs = [("a", "z"), ("a/", "b"), ("a/", "c"), ("ab", "a")]
    assert sorted(session_key(*pair) for pair in pairs) == [session_key(*pair) for pair in pairs]


def test_without_a_mount_point_the_key_is_the_client_identifier() -> None:
    assert session_key("", "c") == "c"
    assert log_fields("c") == {"client_id": "c"}
    assert log_fields(session_key("a/", "c")) == {"client_id": "c", "mount_point": "a/"}
