"""Which listening sockets stay when the configuration of the listeners changes, and which do not.

Pure but for ``OpenListener``, which joins a listener's state with its sockets. Called by
`Listeners`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.edge.transport.acceptor import Acceptor
from tidegate.edge.transport.listener import Listener
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

Place = tuple[object, ...]


def place_of(config: ListenerConfig, port: int = 0) -> Place:
    """What a listening socket is bound to; ``port`` where the system was to choose."""
    if config.protocol is ListenerProtocol.UNIX:
        return ("unix", config.address)
    return (config.address, config.port or port, config.reuse_port)


@dataclass(slots=True, eq=False)
class OpenListener:
    """A listener that is open."""

    state: Listener
    acceptor: Acceptor

    @property
    def config(self) -> ListenerConfig:
        """Its settings now."""
        return self.state.config

    @property
    def place(self) -> Place:
        """What its sockets are bound to."""
        return place_of(self.config, self.acceptor.port)

    def becomes(self, wanted: ListenerConfig) -> bool:
        """Whether it can become another listener, connections and all."""
        if not self.acceptor.is_open or self.config.protocol is not wanted.protocol:
            return False
        if self.config.label == wanted.label:
            return self.place == place_of(wanted, self.acceptor.port)
        return self.place == place_of(wanted)

    def is_in_the_way_of(self, wanted: ListenerConfig) -> bool:
        """Whether it may be why a port cannot be had: ``*`` and one of its addresses."""
        unix = ListenerProtocol.UNIX
        if not self.acceptor.is_open or unix in {self.config.protocol, wanted.protocol}:
            return False
        return self.acceptor.port == wanted.port


def matched(
    doors: Sequence[OpenListener], configs: Sequence[ListenerConfig]
) -> tuple[list[OpenListener | None], list[OpenListener]]:
    """Return for each wanted listener the open one that it becomes, and those left over.

    Of several that would do, the one of the same name is taken.
    """
    free = list(doors)
    found: list[OpenListener | None] = [None] * len(configs)
    for by_name in (True, False):
        for index, config in enumerate(configs):
            if found[index] is not None:
                continue
            for door in free:
                if door.becomes(config) and (not by_name or door.config.label == config.label):
                    found[index] = door
                    free.remove(door)
                    break
    return found, free


def needs_new_acceptor(old: ListenerConfig, new: ListenerConfig) -> bool:
    """Whether a change concerns the accepting of connections, not only what becomes of them."""
    return any(
        getattr(old, key) != getattr(new, key)
        for key in (
            "accept_rate",
            "accept_burst",
            "backlog",
            "tcp_keepalive_s",
            "unix_mode",
        )
    )
