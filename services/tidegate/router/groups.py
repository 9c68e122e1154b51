"""Shared subscriptions: each message goes to one member of a group (MQTT5 §4.8.2).

Called by ``routing`` for publishes, and with messages that a member left unacknowledged. Connected
members are tried first; a durable member queues the message, the edge of another one takes it, and
the next member is tried when one cannot. A QoS 2 message is claimed for a durable member first.
Owns only the client identifiers whose queues are to be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tidegate.core.shared import SharedGroups
from tidegate.link.interfaces import Origin
from tidegate.mqtt.packets import Publish, SubscriptionOptions
from tidegate.mqtt.topics import parse_shared
from tidegate.router.claims import ClaimItem, Claims
from tidegate.router.pending import Pending
from tidegate.router.queue_writer import Offer, QueueWriter
from tidegate.router.table import DurableSession, SharedMember
from tidegate.runtime.telemetry.counters import Counters
from tidegate.store.api import AppendOutcome, Claim, Holder

#: Members with a full queue that are tried before a message is dropped: each costs an append.
MAX_FULL_QUEUES: Final = 4
#: Outcomes that count for it.
FULL: Final = frozenset(
    {AppendOutcome.QUEUE_FULL, AppendOutcome.QUEUE_BYTES, AppendOutcome.STORE_FULL}
)


class RedispatchOrigin:
    """The origin of a message that was queued for a client before: no publisher waits for it."""

    __slots__ = ("_identity", "client_id", "epoch", "previous_client_id")

    is_will: Final = False
    is_superseded: Final = False

    def __init__(self, identity: str, previous_client_id: str) -> None:
        self.client_id = ""
        self.epoch = 0
        #: The client that it was queued for: it is queued there again instead of being dropped.
        self.previous_client_id = previous_client_id
        self._identity = identity

    def identity(self, message: Publish) -> str:
        """The same at every attempt, so that a durable member queues the message once."""
        return self._identity

    def receipt(self, message: Publish) -> int:
        """No PUBREC is waited for."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """No publisher waits."""


class Page(Pending):
    """Messages that are redelivered together, and stay in an abandoned queue until that is done.

    A member without a durable session has its message in the memory of its edge only. So it is
    pending, too, until the member has acknowledged it, another member has it, or ``close``.
    """

    __slots__ = ("_redeliveries", "closed")

    def __init__(self, finished: Callable[[], None]) -> None:
        super().__init__(finished)
        self.closed = False
        self._redeliveries: set[Redelivery] = set()

    def watch(
        self, groups: Groups, group: tuple[str, str], origin: Origin | None, message: Publish
    ) -> Redelivery | None:
        """Wait for a member's acknowledgement; None after ``close``."""
        if self.closed:
            return None
        redelivery = Redelivery(self, groups, group, origin, message)
        self._redeliveries.add(redelivery)
        self.add()
        return redelivery

    def unwatch(self, redelivery: Redelivery) -> None:
        """Wait for this one no longer."""
        if redelivery in self._redeliveries:
            self._redeliveries.remove(redelivery)
            self.release()

    def close(self) -> None:
        """Wait for acknowledgements no longer: the edges redispatch what is not acknowledged."""
        self.closed = True
        for redelivery in list(self._redeliveries):
            self.unwatch(redelivery)


class Redelivery:
    """The receipt of a message that was sent to a member without a durable session."""

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
        """It is acknowledged or dropped (see SharedReceipt)."""
        self._page.unwatch(self)

    def returned(self) -> None:
        """The member has disconnected: dispatch it to another one (see SharedReceipt)."""
        self._groups.dispatch(self._group, self._origin, self._message, self._page)
        self._page.unwatch(self)


class Groups:
    """Dispatches messages to members; see the module's docstring."""

    def __init__(
        self,
        shared: SharedGroups[SharedMember],
        queues: QueueWriter,
        claims: Claims,
        counters: Counters,
    ) -> None:
        self._shared = shared
        self._queues = queues
        self._claims = claims
        self._counters = counters
        #: Offline clients with a message in their queue that a connected member could have.
        self.clients_to_check: set[str] = set()
        queues.groups = self
        claims.claimed = self._claimed

    def dispatch(
        self, group: tuple[str, str], origin: Origin | None, message: Publish, pending: Pending
    ) -> None:
        """Dispatch a message to one member, or drop it, counted; ``pending`` counts its writes."""
        if not self._dispatch(group, origin, message, pending, ()):
            self._counters.published += 1
            self._counters.dropped["no_subscriber"] += 1

    def redispatch(self, topic_filter: str, message: Publish) -> None:
        """Dispatch a message that a member has not acknowledged to another one."""
        share = parse_shared(topic_filter)
        if share is not None:
            pending = Pending(_nothing)
            self.dispatch(share, None, message, pending)
            pending.release()

    def _dispatch(
        self,
        group: tuple[str, str],
        origin: Origin | None,
        message: Publish,
        pending: Pending,
        skip: tuple[str, ...],
        before: Offer | None = None,
    ) -> bool:
        while True:
            member = self._shared.pick(*group, skip)
            if member is None:
                return False
            if self._offer(member, group, origin, message, pending, skip, before):
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
        before: Offer | None,
    ) -> bool:
        """Queue a message for a member, or send it; False when it is not connected.

        ``before``: the offer that the last member has refused.
        """
        options = member.options
        granted = min(options.qos, message.qos)
        session = member.session
        if session is not None and granted:
            identity = _identity(origin, group, message) if before is None else before.identity
            if identity and message.qos == 2:
                holder = (session.client_id, session.incarnation)
                moved_from = before.holder if before is not None else None
                claim = Claim(f"{group[0]}/{group[1]}", identity, holder, moved_from)
                self._claims.add(ClaimItem(claim, group, origin, message, pending, skip))
            else:
                offer = Offer(group, origin, identity, skip)
                self._queue(session, options, message, pending, offer)
            return True
        edge = session.edge if session is not None else member.edge
        epoch = session.epoch if session is not None else member.epoch
        if edge is None:
            return False
        # QoS 2 goes to no other member once it is sent, and QoS 0 is never acknowledged.
        receipt = None
        if granted == 1 and isinstance(pending, Page):
            receipt = pending.watch(self, group, origin, message)
        name = f"$share/{group[0]}/{group[1]}"
        if edge.deliver_shared(member.client_id, epoch, message, name, options, receipt):
            return True
        if receipt is not None:
            receipt.done()
        return False

    def _queue(
        self,
        session: DurableSession,
        options: SubscriptionOptions,
        message: Publish,
        pending: Pending,
        offer: Offer,
    ) -> None:
        identifier = options.subscription_identifier
        self._queues.add(
            session,
            message,
            min(options.qos, message.qos),
            message.retain and options.retain_as_published,
            (identifier,) if identifier else (),
            pending,
            offer.identity,
            offer,
        )

    def _claimed(self, item: ClaimItem, holder: Holder) -> None:
        """Queue a message for the member that has its claim, whichever router has chosen it."""
        member = self._shared.member(*item.group, holder[0])
        if member is not None and member.session is not None and member.options.qos:
            session, options = member.session, member.options
        else:
            session, options = DurableSession(*holder), SubscriptionOptions(2)
        if session.incarnation != holder[1]:
            session = DurableSession(*holder)
        # One that is a member no longer may have queued it before; the store says.
        offer = Offer(item.group, item.origin, item.claim.identity, item.skip, holder)
        self._queue(session, options, item.message, item.pending, offer)

    # Callbacks of the queue writer

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
        if outcome in FULL:
            if isinstance(origin, RedispatchOrigin) and origin.previous_client_id not in skip:
                home = self._shared.member(*group, origin.previous_client_id)
                if home is not None and self._offer(
                    home, group, origin, message, pending, skip, offer
                ):
                    return True
            if len(skip) >= MAX_FULL_QUEUES:
                return False
        return self._dispatch(group, origin, message, pending, skip, offer)

    def queued_offline(self, client_id: str, offer: Offer) -> None:
        """A message was queued for a member that is not connected.

        When others are connected, its queue must be checked: connections may have changed between
        the choice of the member and the append.
        """
        if not offer.skip and self._shared.has_connected(*offer.group, besides=client_id):
            self.clients_to_check.add(client_id)


def _identity(origin: Origin | None, group: tuple[str, str], message: Publish) -> str:
    """Name a message within a group, the same for every router; "" when it has no identity."""
    identity = origin.identity(message) if origin is not None else ""
    return f"{identity}|{group[0]}/{group[1]}" if identity else ""


def _nothing() -> None:
    pass
