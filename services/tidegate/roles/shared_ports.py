"""The ports that all edges of a supervisor share: chosen and reserved by the supervisor.

A socket that is bound and does not listen gets no connections, and keeps other programs off the
port.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.edge.transport.acceptor import bind, bound_address
from tidegate.runtime.config.model import Config, ListenerConfig, ListenerProtocol


@dataclass(slots=True)
class _Reserved:
    """The reserved port of one listener."""

    label: str
    address: str
    wanted: int
    port: int
    addresses: list[str]
    sockets: list[socket.socket] = field(default_factory=list)

    def fits(self, listener: ListenerConfig) -> bool:
        """Whether it is the port of a listener; without a port number, its name decides."""
        if listener.protocol is ListenerProtocol.UNIX or listener.address != self.address:
            return False
        if listener.port:
            return listener.port == self.port
        return not self.wanted and listener.label == self.label

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class SharedPorts:
    """See the module's docstring. ``reserve`` is followed by ``commit`` or ``rollback``."""

    __slots__ = ("_next", "_reserved")

    def __init__(self) -> None:
        self._reserved: list[_Reserved] = []
        self._next: list[_Reserved] = []

    def reserve(self, listeners: Sequence[ListenerConfig]) -> list[dict[str, Any]]:
        """Bind what is not reserved yet; return the listeners as each edge's file has them.

        Raises OSError with the listener's name; then everything is as before.
        """
        self._next = []
        found = []
        try:
            for listener in listeners:
                settings: dict[str, Any] = {"name": listener.label}
                if listener.protocol is not ListenerProtocol.UNIX:
                    place = self._reserve(listener)
                    self._next.append(place)
                    settings |= {"reuse_port": True, "port": place.port}
                found.append(dump(listener) | settings)
        except BaseException:
            self.rollback()
            raise
        return found

    def _reserve(self, listener: ListenerConfig) -> _Reserved:
        for place in self._reserved:
            if place.fits(listener):
                return place
        if all(place.port != listener.port for place in self._reserved):
            # Exclusively first: SO_REUSEPORT would share another broker's port as well.
            for sock in bind(listener.model_copy(update={"reuse_port": False})):
                sock.close()
        sockets = bind(listener.model_copy(update={"reuse_port": True}))
        addresses = [bound_address(sock) for sock in sockets]
        port = sockets[0].getsockname()[1]
        return _Reserved(listener.label, listener.address, listener.port, port, addresses, sockets)

    def commit(self) -> None:
        """Keep what ``reserve`` has bound, and nothing else."""
        before, self._reserved, self._next = self._reserved, self._next, []
        for place in before:
            if place not in self._reserved:
                place.close()

    def rollback(self) -> None:
        """Keep what was reserved before ``reserve``."""
        for place in self._next:
            if place not in self._reserved:
                place.close()
        self._next = []

    def close(self) -> None:
        """Release all of them."""
        for place in self._reserved:
            place.close()
        self._reserved = []

    def addresses_of(self, listener: ListenerConfig) -> list[str]:
        """Return the addresses of a listener, to be printed."""
        if listener.protocol is ListenerProtocol.UNIX:
            return [listener.address]
        return next(place.addresses for place in self._reserved if place.fits(listener))


def dump(section: Config | ListenerConfig) -> dict[str, Any]:
    """Return what was set, as data for a YAML file."""
    return section.model_dump(mode="json", exclude_unset=True)


def endpoints_of(listeners: Sequence[ListenerConfig], ports: SharedPorts) -> Iterator[str]:
    """Name the listeners, as the ready line does."""
    for listener in listeners:
        path = listener.paths[0] if listener.protocol in {"ws", "wss"} else ""
        for address in ports.addresses_of(listener):
            yield f"{listener.label}={listener.protocol.value}://{address}{path}"
