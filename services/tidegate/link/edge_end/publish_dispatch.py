"""What an edge hands over and does not wait for: publishes, completed deliveries, and the like.

Owns the order in which the edge was asked, what belongs to no router yet (homeless), and whether
publishers are held. The edge calls ``publish`` and ``complete`` (as the router client's, but
without a call in between: this is the hot path), ``frame_handler`` says when routers take more, and
``membership`` brings what waited for a router that is given up. What a router has been sent and has
not settled is with its ``channel``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tidegate.link.edge_end.router_peer import Redispatched, Sent, State
from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.interfaces import PUBLISHED, Origin
from tidegate.link.messages import size_of
from tidegate.mqtt.packets import Publish
from tidegate.runtime.telemetry.counters import Counters


class PublishDispatcher:
    """See the module's docstring."""

    __slots__ = (
        "_counters",
        "_homeless",
        "_order",
        "_owners",
        "_routers",
        "holding",
        "on_paused",
        "on_resumed",
    )

    def __init__(self, routers: RouterTable, counters: Counters) -> None:
        self._routers = routers
        self._owners = routers.owners
        self._counters = counters
        self._order = 0
        self._homeless: list[Sent] = []
        #: Whether publishers have been told to wait.
        self.holding = False
        #: Called when publishers must wait, and when they may go on.
        self.on_paused: Callable[[], None] = _nothing
        self.on_resumed: Callable[[], None] = _nothing

    def publish(self, origin: Origin, message: Publish) -> int | None:
        """Route a message (see RouterLink)."""
        channel = self._owners.get(message.topic) or self._routers.owner(message.topic)
        qos = message.qos
        if not qos and channel is not None and channel.state is State.OPEN:
            channel.publish_unanswered(message, origin.client_id)
        else:
            self._order += 1
            sent = Sent(origin.client_id, origin.epoch, self._order, size_of(message))
            sent.origin = origin
            sent.message = message
            if qos == 2:
                sent.receipt = origin.receipt(message)
                sent.identity = origin.identity(message)
            if channel is None:
                self._homeless.append(sent)
                self.hold()
            else:
                channel.publish(sent)
        if channel is not None and channel.outstanding_bytes >= channel.credit_bytes:
            self.hold()
        return None if qos else PUBLISHED

    def complete(
        self, client_id: str, epoch: int, seqs: list[int], done: Callable[[], None] | None = None
    ) -> None:
        """Forget deliveries (see RouterLink)."""
        self._order += 1
        sent = Sent(client_id, epoch, self._order, 0)
        sent.seqs = seqs
        sent.done = done
        self._complete(sent)

    def _complete(self, sent: Sent) -> None:
        channel = self._routers.session_router(sent.client_id)
        if channel is None:
            self._homeless.append(sent)
        else:
            channel.complete(sent)

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a lost member's message to another one (see RouterLink)."""
        self._order += 1
        self._redispatch(Redispatched(topic_filter, message, self._order))

    def _redispatch(self, sent: Redispatched) -> None:
        channel = self._routers.session_router(sent.group)
        # One that has not joined does not know what other edges have members for.
        if channel is not None and channel.state is not State.DOWN:
            channel.redispatch(sent)
        elif sent.message is not None and sent.message.qos:
            self._homeless.append(sent)
        else:
            self._counters.dropped["link_lost"] += 1
            self._counters.published += 1

    # When routers come and go

    def rehome(self, left: Sequence[Sent] = ()) -> None:
        """Give what belongs to no router, and what one has left, to those that are there."""
        homeless, self._homeless = [*self._homeless, *left], []
        homeless.sort(key=lambda sent: sent.order)
        for sent in homeless:
            if isinstance(sent, Redispatched):
                self._redispatch(sent)
                continue
            if sent.message is None:
                self._complete(sent)
                continue
            channel = self._routers.owner(sent.message.topic)
            if channel is None:
                self._homeless.append(sent)
            else:
                channel.publish(sent)

    def hold(self) -> None:
        """Have publishers wait."""
        if not self.holding:
            self.holding = True
            self.on_paused()

    def let_publish(self) -> None:
        """Let publishers go on if every router takes something."""
        if (
            self.holding
            and self._routers.reachable()
            and all(member.has_credit() for member in self._routers.members.values())
        ):
            self.holding = False
            self.on_resumed()


def _nothing() -> None:
    pass
