"""What every router must know of an edge: its interest, its group members, its durable sessions.

Owns all three as they are now. The router client reports changes, which are sent to every connected
router at once; ``router_membership`` has all of it sent over a connection that begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tidegate.link.edge_end.router_table import RouterTable
from tidegate.link.messages import SMALL_BYTES, write_subscriptions
from tidegate.link.outbox import Outbox
from tidegate.link.v1 import link_pb2 as pb
from tidegate.mqtt.packets import SubscriptionOptions

#: How many filters go into one operation.
OPERATION_FILTERS: Final = 500


class Snapshot:
    """See the module's docstring."""

    __slots__ = ("_interest", "_routers", "_sessions", "_shared")

    def __init__(self, routers: RouterTable) -> None:
        self._routers = routers
        #: By filter: whether only messages of QoS 0 are to be sent.
        self._interest: dict[str, bool] = {}
        #: By client identifier: (epoch, shared subscriptions), of ephemeral sessions.
        self._shared: dict[str, tuple[int, dict[str, SubscriptionOptions]]] = {}
        #: By client identifier: (epoch, incarnation), of durable sessions.
        self._sessions: dict[str, tuple[int, int]] = {}

    def send_all(self, outbox: Outbox[pb.EdgeFrame]) -> None:
        """Send all of it: a connection begins."""
        for only_qos0 in (False, True):
            filters = [name for name, is_qos0 in self._interest.items() if is_qos0 is only_qos0]
            _write_added(outbox, filters, only_qos0=only_qos0)
        for client_id, (epoch, incarnation) in self._sessions.items():
            _write_session(outbox, client_id, epoch, incarnation, False)
        for client_id, (epoch, subscriptions) in self._shared.items():
            _write_members(outbox, client_id, epoch, list(subscriptions.items()))

    def _outboxes(self) -> list[Outbox[pb.EdgeFrame]]:
        return [peer.outbox for peer in self._routers.connected() if peer.outbox is not None]

    def add_interest(self, filters: Sequence[str], *, only_qos0: bool) -> None:
        """Clients of this edge need what matches these filters (of QoS 0 only)."""
        self._interest.update(dict.fromkeys(filters, only_qos0))
        for outbox in self._outboxes():
            _write_added(outbox, filters, only_qos0=only_qos0)

    def remove_interest(self, filters: Sequence[str]) -> None:
        """No client of this edge has these filters any more."""
        for topic_filter in filters:
            self._interest.pop(topic_filter, None)
        for outbox in self._outboxes():
            for part in _parts(filters):
                outbox.operation().interest.removed.extend(part)
                outbox.grew(sum(map(len, part)) + SMALL_BYTES)

    def add_session(self, client_id: str, epoch: int, incarnation: int) -> None:
        """A durable session is connected here."""
        known = self._sessions.get(client_id)
        if known is not None and known[0] > epoch:
            return
        self._sessions[client_id] = (epoch, incarnation)
        for outbox in self._outboxes():
            _write_session(outbox, client_id, epoch, incarnation, False)

    def remove_session(self, client_id: str, epoch: int) -> None:
        """A connection has ended, durable or not."""
        known = self._sessions.get(client_id)
        if known is not None and known[0] == epoch:
            del self._sessions[client_id]
            for outbox in self._outboxes():
                _write_session(outbox, client_id, epoch, known[1], True)

    def join_groups(
        self, client_id: str, epoch: int, shared: Sequence[tuple[str, SubscriptionOptions]]
    ) -> None:
        """A connection without a durable session is a member of these shared subscriptions."""
        known = self._shared.get(client_id)
        filters = known[1] if known is not None and known[0] == epoch else {}
        filters.update(shared)
        self._shared[client_id] = (epoch, filters)
        for outbox in self._outboxes():
            _write_members(outbox, client_id, epoch, shared)

    def leave_groups(self, client_id: str, epoch: int, filters: Sequence[str]) -> None:
        """It is not a member of these any more."""
        known = self._shared.get(client_id)
        if known is None or known[0] != epoch:
            return
        left = [topic_filter for topic_filter in filters if known[1].pop(topic_filter, None)]
        if not known[1]:
            del self._shared[client_id]
        for outbox in self._outboxes():
            operation = outbox.operation().leave_groups
            operation.client_id, operation.epoch = client_id, epoch
            operation.topic_filters.extend(left)
            outbox.grew(SMALL_BYTES + sum(map(len, left)))


def _parts(filters: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(filters), OPERATION_FILTERS):
        yield filters[start : start + OPERATION_FILTERS]


def _write_added(outbox: Outbox[pb.EdgeFrame], filters: Sequence[str], *, only_qos0: bool) -> None:
    for part in _parts(filters):
        interest = outbox.operation().interest
        interest.added.extend(part)
        if only_qos0:
            interest.only_qos0 = True
        outbox.grew(sum(map(len, part)) + SMALL_BYTES)


def _write_session(
    outbox: Outbox[pb.EdgeFrame], client_id: str, epoch: int, incarnation: int, ended: bool
) -> None:
    operation = outbox.operation().hold
    operation.client_id, operation.epoch = client_id, epoch
    operation.incarnation, operation.ended = incarnation, ended
    outbox.grew(SMALL_BYTES)


def _write_members(
    outbox: Outbox[pb.EdgeFrame],
    client_id: str,
    epoch: int,
    subscriptions: Sequence[tuple[str, SubscriptionOptions]],
) -> None:
    operation = outbox.operation().shared_member
    operation.client_id, operation.epoch = client_id, epoch
    write_subscriptions(operation, subscriptions)
    outbox.grew(SMALL_BYTES + sum(len(name) for name, _ in subscriptions))
