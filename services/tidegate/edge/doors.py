"""Which listening sockets stay when the configuration of the listeners changes, and which do not.

Pure but for ``Door``, which joins a listener's state with its sockets. Called by `Listeners`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.edge.acceptor import Acceptor
from tidegate.edge.state import ListenerState
from tidegate.runtime.config import ListenerConfig, ListenerProtocol


@dataclass(slots=True, eq=False)
class Door:
    """A listener that is open."""

    state: ListenerState
    acceptor: Acceptor

    @property
    def config(self) -> ListenerConfig:
        """Its settings now."""
        return self.state.config


def place_of(config: ListenerConfig) -> tuple[object, ...] | None:
    """What a listening socket is bound to; None when the system chooses."""
    if config.protocol is ListenerProtocol.UNIX:
        return ("unix", config.address)
    if not config.port:
        return None
    return (config.address, config.port, config.reuse_port)


def stays(door: ListenerConfig, wanted: ListenerConfig) -> bool:
    """Whether an open listener can become the wanted one, connections and all."""
    if door.protocol is not wanted.protocol:
        return False
    if place_of(door) is None and place_of(wanted) is None:
        same = (door.address, door.reuse_port) == (wanted.address, wanted.reuse_port)
        return same and door.label == wanted.label
    return place_of(door) == place_of(wanted)


def matched(
    doors: Sequence[Door], configs: Sequence[ListenerConfig]
) -> tuple[list[Door | None], list[Door]]:
    """Return for each wanted listener the open one that it becomes, and those left over.

    Of several that would do, the one of the same name is taken.
    """
    free = list(doors)
    found: list[Door | None] = [None] * len(configs)
    for by_name in (True, False):
        for index, config in enumerate(configs):
            if found[index] is not None:
                continue
            for door in free:
                if stays(door.config, config) and (
                    not by_name or door.config.label == config.label
                ):
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
            "proxy_protocol",
        )
    )


def is_in_the_way(door: ListenerConfig, wanted: ListenerConfig) -> bool:
    """Whether an open listener may be why a port cannot be had: ``*`` and one of its addresses."""
    unix = ListenerProtocol.UNIX
    return (
        door.protocol is not unix and wanted.protocol is not unix and door.port == wanted.port != 0
    )
