"""Which open listeners stay when the configuration of the listeners changes, and which do not.

Called by `Listeners`. Pure but for `OpenListener`, which joins a listener with its sockets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tidegate.edge.transport.acceptor import Acceptor
from tidegate.edge.transport.listener import Listener
from tidegate.runtime.config.model import ListenerConfig, ListenerProtocol

#: What a listening socket is bound to.
BindAddress = tuple[object, ...]

_ACCEPTOR_SETTINGS = (
    "accept_rate",
    "accept_burst",
    "backlog",
    "tcp_keepalive_s",
    "unix_mode",
)


def bind_address_of(config: ListenerConfig, port: int = 0) -> BindAddress:
    """Return what a listener binds to; ``port`` is used where the system was to choose one."""
    if config.protocol is ListenerProtocol.UNIX:
        return ("unix", config.address)
    return (config.address, config.port or port, config.reuse_port)


@dataclass(slots=True, eq=False)
class OpenListener:
    """A listener with its listening sockets."""

    listener: Listener
    acceptor: Acceptor

    @property
    def config(self) -> ListenerConfig:
        """Its settings now."""
        return self.listener.config

    @property
    def bind_address(self) -> BindAddress:
        """What its sockets are bound to."""
        return bind_address_of(self.config, self.acceptor.port)

    def can_become(self, wanted: ListenerConfig) -> bool:
        """Whether it can take the settings of ``wanted`` and keep its sockets and connections."""
        if not self.acceptor.is_open or self.config.protocol is not wanted.protocol:
            return False
        if self.config.label == wanted.label:
            return self.bind_address == bind_address_of(wanted, self.acceptor.port)
        return self.bind_address == bind_address_of(wanted)

    def may_block(self, wanted: ListenerConfig) -> bool:
        """Whether it may be why ``wanted`` cannot bind its port: ``*`` and one of its addresses."""
        unix = ListenerProtocol.UNIX
        if not self.acceptor.is_open or unix in {self.config.protocol, wanted.protocol}:
            return False
        return self.acceptor.port == wanted.port


def match_listeners(
    open_listeners: Sequence[OpenListener], configs: Sequence[ListenerConfig]
) -> tuple[list[OpenListener | None], list[OpenListener]]:
    """Return for each wanted listener the open one that becomes it, and the open ones left over.

    Of several that could, the one of the same name is taken.
    """
    left_over = list(open_listeners)
    matches: list[OpenListener | None] = [None] * len(configs)
    for by_name in (True, False):
        for index, config in enumerate(configs):
            if matches[index] is not None:
                continue
            for each in left_over:
                if each.can_become(config) and (not by_name or each.config.label == config.label):
                    matches[index] = each
                    left_over.remove(each)
                    break
    return matches, left_over


def needs_new_acceptor(old: ListenerConfig, new: ListenerConfig) -> bool:
    """Whether a change concerns the accepting of connections, not only what becomes of them."""
    return any(getattr(old, key) != getattr(new, key) for key in _ACCEPTOR_SETTINGS)
