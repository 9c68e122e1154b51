"""The ports that all edges of a supervisor share: chosen, and held, by the supervisor.

A socket that is bound and does not listen gets no connections, and keeps others off the port.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidegate.edge.transport.acceptor import bind, bound_address
from tidegate.runtime.config.model import Config, ListenerConfig, ListenerProtocol


@dataclass(slots=True)
class _Held:
    """One listener's place."""

    label: str
    address: str
    wanted: int
    port: int
    addresses: list[str]
    sockets: list[socket.socket] = field(default_factory=list)

    def fits(self, listener: ListenerConfig) -> bool:
        """Whether a listener is at this place; without a port, its name says so."""
        if listener.protocol is ListenerProtocol.UNIX or listener.address != self.address:
            return False
        if listener.port:
            return listener.port == self.port
        return not self.wanted and listener.label == self.label

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


class SharedPorts:
    """See the module's docstring. ``hold`` prepares; ``take`` or ``undo`` follows."""

    __slots__ = ("_held", "_next")

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._next: list[_Held] = []

    def hold(self, listeners: Sequence[ListenerConfig]) -> list[dict[str, Any]]:
        """Bind what is not held yet; return what each edge's file says of the listeners.

        Raises OSError with the listener's name; then everything is as before.
        """
        self._next = []
        found = []
        try:
            for listener in listeners:
                settings: dict[str, Any] = {"name": listener.label}
                if listener.protocol is not ListenerProtocol.UNIX:
                    place = self._place_of(listener)
                    self._next.append(place)
                    settings |= {"reuse_port": True, "port": place.port}
                found.append(dump(listener) | settings)
        except BaseException:
            self.undo()
            raise
        return found

    def _place_of(self, listener: ListenerConfig) -> _Held:
        for place in self._held:
            if place.fits(listener):
                return place
        if all(place.port != listener.port for place in self._held):
            # First alone: another broker's port would be shared as readily as our own.
            for sock in bind(listener.model_copy(update={"reuse_port": False})):
                sock.close()
        sockets = bind(listener.model_copy(update={"reuse_port": True}))
        addresses = [bound_address(sock) for sock in sockets]
        port = sockets[0].getsockname()[1]
        return _Held(listener.label, listener.address, listener.port, port, addresses, sockets)

    def take(self) -> None:
        """Hold what ``hold`` has bound, and nothing else."""
        before, self._held, self._next = self._held, self._next, []
        for place in before:
            if place not in self._held:
                place.close()

    def undo(self) -> None:
        """Hold what was held before ``hold``."""
        for place in self._next:
            if place not in self._held:
                place.close()
        self._next = []

    def close(self) -> None:
        """Let all of them go."""
        for place in self._held:
            place.close()
        self._held = []

    def addresses_of(self, listener: ListenerConfig) -> list[str]:
        """Where a listener is, for people."""
        if listener.protocol is ListenerProtocol.UNIX:
            return [listener.address]
        return next(place.addresses for place in self._held if place.fits(listener))


def dump(section: Config | ListenerConfig) -> dict[str, Any]:
    """What was set, as it stands in a YAML file."""
    return section.model_dump(mode="json", exclude_unset=True)


def places_of(listeners: Sequence[ListenerConfig], ports: SharedPorts) -> Iterator[str]:
    """Name the listeners, as the ready line does."""
    for listener in listeners:
        path = listener.paths[0] if listener.protocol in {"ws", "wss"} else ""
        for address in ports.addresses_of(listener):
            yield f"{listener.label}={listener.protocol.value}://{address}{path}"
