"""Connections of the link's HTTP/2 without sockets, against a peer that h2 plays.

Inputs: bytes of the peer (``support.http2_peer``). Observed: messages and failures of streams,
frames that are sent. With sockets, TLS and grpcio at the other end: tests/integration/link.
"""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def spoken_version() -> None:
    """Frames of the link are not read here: there is no version of them."""
