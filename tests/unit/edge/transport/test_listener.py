"""What a listener reads from a transport. Admission is proven in tests/integration."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tidegate.edge.transport.listener import peer_address


class _Accepted(asyncio.Transport):
    def __init__(self, peer_name: Any) -> None:
        super().__init__({"peername": peer_name})


@pytest.mark.parametrize(
    ("peer_name", "address"),
    [
        (("192.0.2.1", 5), ("192.0.2.1", 5)),
        (("2001:db8::1", 5, 0, 0), ("2001:db8::1", 5)),
        (("fe80::1%eth0", 5, 0, 2), ("fe80::1", 5)),
        (("::ffff:192.0.2.1", 5, 0, 0), ("192.0.2.1", 5)),
        (("::ffff:0:c000:201", 5, 0, 0), ("::ffff:0:c000:201", 5)),
        ("", ("", 0)),
        (None, ("", 0)),
    ],
)
def test_the_address_of_the_other_end(peer_name: Any, address: tuple[str, int]) -> None:
    assert peer_address(_Accepted(peer_name)) == address
