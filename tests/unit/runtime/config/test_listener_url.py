"""Listeners as flags write them."""

from __future__ import annotations

from typing import Any

import pytest

from tidegate.runtime.config.listener_url import ListenerUrlError, parse_listener_url


@pytest.mark.parametrize(
    ("url", "listener"),
    [
        ("tcp://127.0.0.1:1883", {"protocol": "tcp", "address": "127.0.0.1", "port": 1883}),
        ("tcp://127.0.0.1", {"protocol": "tcp", "address": "127.0.0.1", "port": 1883}),
        ("tcp://127.0.0.1:0/", {"protocol": "tcp", "address": "127.0.0.1", "port": 0}),
        ("mqtts://:8883", {"protocol": "tls", "address": "*", "port": 8883}),
        ("tls://*", {"protocol": "tls", "address": "*", "port": 8883}),
        ("TCP://[::]:5", {"protocol": "tcp", "address": "::", "port": 5}),
        ("ws://[::1]", {"protocol": "ws", "address": "::1", "port": 8083}),
        (
            "ws://[::1]:8083/mqtt",
            {"protocol": "ws", "address": "::1", "port": 8083, "paths": ["/mqtt"]},
        ),
        ("wss://h/", {"protocol": "wss", "address": "h", "port": 8084, "paths": ["/"]}),
        (
            "auto://:443/a/b",
            {"protocol": "auto", "address": "*", "port": 443, "paths": ["/a/b"]},
        ),
        ("unix:///run/a.sock", {"protocol": "unix", "address": "/run/a.sock", "port": 0}),
        ("unix://a.sock", {"protocol": "unix", "address": "a.sock", "port": 0}),
    ],
)
def test_a_url_names_a_listener(url: str, listener: dict[str, Any]) -> None:
    assert parse_listener_url(url) == listener


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("127.0.0.1:1883", "expected SCHEME"),
        ("http://x:1", "expected SCHEME"),
        ("tcp://::1:1883", "brackets"),
        ("tcp://[::1:1883", "IPV6"),
        ("tcp://[::1]x", "IPV6"),
        ("tcp://x:", "expected a port"),
        ("tcp://x:65536", "expected a port"),
        ("tcp://x:-1", "expected a port"),
        ("tcp://x:²", "expected a port"),
        ("tcp://x:1/mqtt", "must not have a path"),
        ("ws://x:1/mqtt?a=b", "user, query and fragment"),
        ("tcp://u:p@x:1", "user, query and fragment"),
        ("auto://x", "expected a port"),
        ("unix://", "expected unix:///path"),
    ],
)
def test_what_is_not_a_listener_is_refused_with_a_sentence(url: str, problem: str) -> None:
    with pytest.raises(ListenerUrlError, match=problem):
        parse_listener_url(url)
