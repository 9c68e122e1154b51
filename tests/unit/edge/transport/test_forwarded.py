"""Trusted networks and X-Forwarded-For."""

from __future__ import annotations

import pytest

from tidegate.edge.transport.forwarded import (
    MAX_ENTRIES,
    TrustedNetworks,
    client_address,
    parse_entry,
)

TRUSTED = TrustedNetworks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_membership(address: str, is_trusted: bool) -> None:
    assert (address in TRUSTED) is is_trusted


def test_without_networks_no_address_is_trusted() -> None:
    assert "127.0.0.1" not in TrustedNetworks([])


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", "::ffff:a00:0/104", "10.9.9.9/8"])
def test_a_network_of_mapped_addresses_is_one_of_ipv4(network: str) -> None:
    trusted = TrustedNetworks([network])
    assert "10.1.2.3" in trusted
    assert "::ffff:10.1.2.3" in trusted
    assert "11.1.2.3" not in trusted
    assert "::a01:203" not in trusted


def test_a_network_around_the_mapped_addresses_is_one_of_ipv6() -> None:
    assert "::1" in TrustedNetworks(["::/0"])
    assert "10.1.2.3" not in TrustedNetworks(["::/0"])


def test_the_peer_of_a_unix_socket_counts_as_loopback() -> None:
    assert "" in TrustedNetworks(["127.0.0.0/8"])


@pytest.mark.parametrize(
    ("entry", "parsed"),
    [
        ("1.2.3.4", ("1.2.3.4", 0)),
        (" 1.2.3.4:5678 ", ("1.2.3.4", 5678)),
        ("2001:DB8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:443", ("2001:db8::1", 443)),
        ('"[2001:db8::1]:443"', ("2001:db8::1", 443)),
        ("fe80::1%eth0", ("fe80::1", 0)),
        ("::ffff:1.2.3.4", ("1.2.3.4", 0)),
        ("[::FFFF:102:304]:5678", ("1.2.3.4", 5678)),
        ("1.2.3.4:65536", None),
        ("1.2.3.4:x", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]443", None),
        ("unknown", None),
        ("_hidden", None),
        ("", None),
    ],
)
def test_entries_with_and_without_ports(entry: str, parsed: tuple[str, int] | None) -> None:
    assert parse_entry(entry) == parsed


def test_an_untrusted_peer_is_the_client_whatever_it_claims() -> None:
    assert client_address(["1.1.1.1"], ("9.9.9.9", 7), TRUSTED) == ("9.9.9.9", 7)


def test_the_right_most_untrusted_entry_is_the_client() -> None:
    values = ["6.6.6.6, 1.2.3.4:5678", "10.0.0.2"]
    assert client_address(values, ("10.0.0.1", 7), TRUSTED) == ("1.2.3.4", 5678)


def test_a_list_of_trusted_proxies_only_names_its_left_most() -> None:
    assert client_address(["10.0.0.3, 10.0.0.2"], ("10.0.0.1", 7), TRUSTED) == ("10.0.0.3", 0)


def test_an_entry_that_is_no_address_ends_the_walk() -> None:
    assert client_address(["1.2.3.4, junk, 10.0.0.2"], ("10.0.0.1", 7), TRUSTED) == ("10.0.0.2", 0)


def test_only_so_many_entries_are_looked_at() -> None:
    values = ["1.2.3.4"] + ["10.0.0.9"] * MAX_ENTRIES
    assert client_address(values, ("10.0.0.1", 7), TRUSTED) == ("10.0.0.9", 0)
