"""Shared subscriptions: each message goes to one member of a group (MQTT5 §4.8.2).

Called by the router for publishes, and with what a member did not acknowledge before it went.
Members that are connected are asked first; a durable one queues the message, the edge of another
one takes it. Who refuses it is passed over. Holds nothing but names of clients to look at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidegate.core.shared import SharedGroups
from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish
from tidegate.mqtt.topics import parse_shared
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import Offer, QueueWriter
from tidegate.router.table import SharedMember
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AppendOutcome

#: Members whose queue may be full before a message is dropped: it costs an append each.
MAX_FULL: Final = 4


class LostMessage:
    """The publisher of a message that had been queued for a client: nobody waits for an answer."""

    __slots__ = ("_identity", "client_id", "epoch", "home")

    def __init__(self, identity: str, home: str) -> None:
        self.client_id = ""
        self.epoch = 0
        #: The client that it was queued for: gets it back where otherwise it would be dropped.
        self.home = home
        self._identity = identity

    def identity(self, message: Publish) -> str:
        """The same at every attempt, so that a durable member queues the message once."""
        return self._identity

    def receipt(self, message: Publish) -> int:
        """Nobody waits for a PUBREC."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """Nobody waits."""


class Page(Pending):
    """Messages that are given away together, and were kept for others until that is done.

    A member without a durable session has its message in the memory of its edge only, so until
    ``close`` it is waited for, too: until it has acknowledged it, or another one has got it.
    """

    __slots__ = ("_handovers", "closed")

    def __init__(self, finished: Callable[[], None]) -> None:
        super().__init__(finished)
        self.closed = False
        self._handovers: set[Redelivery] = set()

    def watch(
        self, groups: Groups, group: tuple[str, str], origin: Origin | None, message: Publish
    ) -> Redelivery | None:
        """Wait for a member's acknowledgement; None when nobody waits any more."""
        if self.closed:
            return None
        redelivery = Redelivery(self, groups, group, origin, message)
        self._handovers.add(redelivery)
        self.hold()
        return redelivery

    def unwatch(self, redelivery: Redelivery) -> None:
        """This one is decided."""
        if redelivery in self._handovers:
            self._handovers.remove(redelivery)
            self.release()

    def close(self) -> None:
        """Wait for acknowledgements no longer: they are left to the edges."""
        self.closed = True
        for redelivery in list(self._handovers):
            self.unwatch(redelivery)


class Redelivery:
    """What becomes of a message that a member without a durable session was given."""

    __slots__ = ("_group", "_groups", "_message", "_origin", "_page")

    def __init__(
        self,
        page: Page,
        groups: Groups,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
    ) -> None:
        self._page = page
        self._groups = groups
        self._group = group
        self._origin = origin
        self._message = message

    def done(self) -> None:
        """It is over (see SharedReceipt)."""
        self._page.unwatch(self)

    def returned(self) -> None:
        """The member has gone: another one gets it (see SharedReceipt)."""
        self._groups.give(self._group, self._origin, self._message, self._page)
        self._page.unwatch(self)


class Groups:
    """Gives messages to members; see the module's docstring."""

    def __init__(
        self, shared: SharedGroups[SharedMember], queues: QueueWriter, counters: Counters
    ) -> None:
        self._shared = shared
        self._queues = queues
        self._counters = counters
        #: Clients that are not connected, and have got something that a connected one should have.
        self.misplaced: set[str] = set()
        queues.groups = self

    def give(
        self, group: tuple[str, str], origin: Origin | None, message: Publish, pending: Pending
    ) -> None:
        """Give a message to one member, or drop it, counted; ``pending`` is held while it waits."""
        if not self._give(group, origin, message, pending, ()):
            self._counters.published += 1
            self._counters.dropped["no_subscriber"] += 1

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Give a message that a member has not acknowledged to another one."""
        share = parse_shared(topic_filter)
        if share is not None:
            pending = Pending(_nothing)
            self.give(share, None, message, pending)
            pending.release()

    def _give(
        self,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
        skip: tuple[str, ...],
    ) -> bool:
        while True:
            member = self._shared.pick(*group, skip)
            if member is None:
                return False
            if self._offer(member, group, origin, message, pending, skip):
                return True
            pending.refused = True
            skip = (*skip, member.client_id)

    def _offer(
        self,
        member: SharedMember,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
        skip: tuple[str, ...],
    ) -> bool:
        """Have a member queue a message, or take it; False when it is not there."""
        options = member.options
        granted = min(options.qos, message.qos)
        session = member.session
        if session is not None and granted:
            identity = origin.identity(message) if origin is not None else ""
            identifier = options.subscription_identifier
            self._queues.add(
                session,
                message,
                granted,
                message.retain and options.retain_as_published,
                (identifier,) if identifier else (),
                pending,
                f"{identity}|{group[0]}/{group[1]}" if identity else "",
                Offer(group, origin, skip),
            )
            return True
        edge = session.edge if session is not None else member.edge
        epoch = session.epoch if session is not None else member.epoch
        if edge is None:
            return False
        # QoS 2 goes to nobody else once it is sent, and QoS 0 is never acknowledged.
        receipt = None
        if granted == 1 and isinstance(pending, Page):
            receipt = pending.watch(self, group, origin, message)
        name = f"$share/{group[0]}/{group[1]}"
        if edge.deliver_shared(member.client_id, epoch, message, name, options, receipt):
            return True
        if receipt is not None:
            receipt.done()
        return False

    # What the queue writer tells

    def refused(
        self,
        client_id: str,
        message: Publish,
        offer: Offer,
        pending: Pending,
        outcome: AppendOutcome,
    ) -> bool:
        """A durable member could not queue a message: offer it to another one.

        False when it is to be dropped: no other member is left, or too many queues are full.
        """
        if outcome is AppendOutcome.DUPLICATE:
            return False
        origin, group = offer.origin, offer.group
        pending.refused = True
        skip = (*offer.skip, client_id)
        if outcome is AppendOutcome.QUEUE_FULL:
            if isinstance(origin, LostMessage) and origin.home not in skip:
                home = self._shared.member(*group, origin.home)
                if home is not None and self._offer(home, group, origin, message, pending, skip):
                    return True
            if len(skip) >= MAX_FULL:
                return False
        return self._give(group, origin, message, pending, skip)

    def queued_offline(self, client_id: str, offer: Offer) -> None:
        """A message was queued for a member that is not connected.

        Nothing else was known of it, or of the others, than that it was its turn: perhaps that was
        wrong, or is now.
        """
        if not offer.skip and self._shared.has_connected(*offer.group, besides=client_id):
            self.misplaced.add(client_id)


def _nothing() -> None:
    pass
