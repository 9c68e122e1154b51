"""What a client and its packet queue have in the place of parts that are not there.

A client has no part for what it receives until it publishes, and none for what it is sent until it
subscribes: idle connections are many. Both are gone when the connection has ended (``Client.end``),
and the queue's client is (``PacketQueue.stop``), so that nothing of an ended connection is in a
reference cycle and all of it is free at once. What is called late (the reply of a router, the rest
of a task) does nothing. Shared by all; no state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from tidegate.edge.client.state import CLOSED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tidegate.edge.client.in_flight import InFlight
    from tidegate.edge.client.state import ClientState
    from tidegate.link.interfaces import SharedReceipt
    from tidegate.mqtt.enums import ReasonCode
    from tidegate.mqtt.errors import MqttError
    from tidegate.mqtt.packets import (
        PubComp,
        Publish,
        PubRec,
        PubRel,
        SubscriptionOptions,
    )
    from tidegate.runtime.config.model import LimitsConfig


class _Replay(Protocol):
    """Retained messages that are still to be sent."""

    def end(self) -> None:
        """Send nothing any more."""


class _EndedOwner:
    """The client of a packet queue (``packet_queue.QueueOwner``)."""

    state: ClientState = CLOSED
    is_closed = True

    def fail(self, error: MqttError) -> None:
        """Do nothing: it has ended."""

    def fail_internally(self) -> None:
        """Do nothing."""

    def disconnect(self, reason_code: ReasonCode) -> None:
        """Do nothing."""

    def abandon(self, reason: str) -> None:
        """Do nothing."""

    def end(self, reason: str) -> None:
        """Do nothing."""


class _NoInbound:
    """The publishes that come from a client (``client.Inbound``)."""

    def supersede(self) -> None:
        """Do nothing: it has published nothing."""

    def publisher(self) -> None:
        """Nothing was published."""

    def on_pubrel(self, packet: PubRel) -> None:
        """Do nothing."""

    def has_unanswered(self) -> bool:
        """Nothing is answered any more."""
        return False

    def limits_changed(self, before: LimitsConfig) -> None:
        """Do nothing."""

    def forget_topics(self) -> None:
        """Do nothing."""


class _NoOutbound:
    """The messages that go to a client (``client.Outbound``)."""

    sent_seq = 0
    retained_reads = 0

    def offer(
        self, message: Publish, qos: int, retain: bool, subscription_ids: tuple[int, ...]
    ) -> None:
        """Do nothing: no client with subscriptions is reached here."""

    def offer_shared(
        self,
        message: Publish,
        group: str,
        options: SubscriptionOptions,
        receipt: SharedReceipt | None = None,
    ) -> bool:
        """There is no place for it."""
        return False

    def send_qos0(self, message: Publish, retain: bool, subscription_ids: tuple[int, ...]) -> None:
        """Do nothing."""

    def push(self, seq: int, message: Publish) -> None:
        """Do nothing."""

    def resync(self) -> None:
        """Do nothing."""

    def pump(self) -> None:
        """Do nothing."""

    def send_retained(self, replay: _Replay) -> None:
        """Nothing of it is sent."""
        replay.end()

    def retained_read(self, messages: Sequence[Publish]) -> None:
        """Do nothing."""

    def pause(self) -> None:
        """Do nothing."""

    def resume(self) -> None:
        """Do nothing."""

    def forget_retained(self, filters: Iterable[str]) -> None:
        """Do nothing."""

    def offer_retained(self, message: Publish, qos: int, subscription_ids: tuple[int, ...]) -> bool:
        """Nothing has to be queued either."""
        return True

    def has_room(self) -> bool:
        """There is nothing to wait for."""
        return True

    async def wait_for_room(self) -> None:
        """There is nothing to wait for."""

    def on_pubrec(self, packet: PubRec) -> None:
        """Do nothing."""

    def on_pubcomp(self, packet: PubComp) -> None:
        """Do nothing."""

    def waiting(self) -> tuple[int, int]:
        """Nothing is."""
        return 0, 0

    def unacknowledged(self, count: int) -> list[InFlight]:
        """Nothing is under way."""
        return []

    def withdraw(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


ENDED_OWNER: Final = _EndedOwner()
NO_INBOUND: Final = _NoInbound()
NO_OUTBOUND: Final = _NoOutbound()
