"""Which open listeners become which wanted ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidegate.edge.transport.acceptor import Acceptor
from tidegate.edge.transport.listener import Listener
from tidegate.edge.transport.listener_diff import OpenListener, match_listeners, needs_new_acceptor
from tidegate.runtime.config.model import ListenerConfig


def config(**settings: Any) -> ListenerConfig:
    return ListenerConfig.model_validate(settings)


def open_listener(bound: int = 0, /, **settings: Any) -> OpenListener:
    """An open one; ``bound`` is the port that the system chose."""
    listener = config(**settings)
    return OpenListener(
        cast(Listener, SimpleNamespace(config=listener)),
        cast(Acceptor, SimpleNamespace(port=listener.port or bound, is_open=True)),
    )


TCP = {"name": "a", "address": "127.0.0.1", "port": 1883}
ANY = {"name": "a", "address": "127.0.0.1", "port": 0}


@pytest.mark.parametrize(
    ("was", "wanted", "stays"),
    [
        (TCP, TCP, True),
        (TCP, TCP | {"name": "b"}, True),
        (TCP, TCP | {"max_qos": 1, "paths": ["/x"], "accept_rate": 5}, True),
        (TCP, TCP | {"port": 1884}, False),
        (TCP, TCP | {"address": "*"}, False),
        (TCP, TCP | {"protocol": "ws"}, False),
        (TCP, TCP | {"reuse_port": True}, False),
        (ANY, ANY, True),
        (ANY, ANY | {"name": "b"}, False),
        (ANY, ANY | {"port": 40_000}, True),
        (ANY, ANY | {"port": 40_001}, False),
        (TCP, TCP | {"port": 0}, True),
        (ANY, ANY | {"address": "*"}, False),
    ],
)
def test_a_listener_stays_where_its_socket_does(
    was: dict[str, Any], wanted: dict[str, Any], stays: bool
) -> None:
    assert open_listener(40_000, **was).can_become(config(**wanted)) is stays


def test_a_listener_without_sockets_is_neither_matched_nor_blocking() -> None:
    shut = open_listener(**TCP)
    shut.acceptor = cast(Acceptor, SimpleNamespace(port=0, is_open=False))
    assert not shut.can_become(config(**TCP))
    assert not shut.may_block(config(**TCP | {"port": 0}))


def test_a_unix_socket_stays_with_its_path() -> None:
    unix: dict[str, Any] = {"name": "a", "protocol": "unix", "address": "/run/a"}
    assert open_listener(**unix).can_become(config(**unix))
    assert not open_listener(**unix).can_become(config(**unix | {"address": "/run/b"}))


def test_the_same_name_goes_before_the_same_place() -> None:
    one, two = open_listener(name="a", port=1), open_listener(name="b", port=2)
    found, free = match_listeners(
        [one, two], [config(name="b", port=2), config(name="x", port=1), config(name="y", port=3)]
    )
    assert (found, free) == ([two, one, None], [])


def test_two_that_exchange_their_ports_exchange_their_names() -> None:
    one, two = open_listener(name="a", port=1), open_listener(name="b", port=2)
    found, free = match_listeners([one, two], [config(name="a", port=2), config(name="b", port=1)])
    assert (found, free) == ([two, one], [])


def test_unnamed_listeners_with_free_ports_are_matched_one_by_one() -> None:
    one, two = open_listener(40_000, port=0), open_listener(40_001, port=0)
    found, free = match_listeners([one, two], [config(port=0)])
    assert (found, free) == ([one], [two])


@pytest.mark.parametrize(
    ("change", "needs"),
    [({"accept_rate": 5}, True), ({"backlog": 7}, True), ({"max_qos": 0}, False)],
)
def test_only_settings_of_accepting_need_a_new_acceptor(
    change: dict[str, Any], needs: bool
) -> None:
    assert needs_new_acceptor(config(**TCP), config(**TCP | change)) is needs
