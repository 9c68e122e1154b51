"""CONNECT: from the packet to CONNACK, one check after the other.

Called by ``dispatch``. ``connect`` decides and returns what it decided; ``accept`` is the one place
where a client takes it. Everything that can be refused is refused here, with the reason code that
the specification names. Asks the authenticator and the router; changes no client, but ends the
connection of one that no CONNACK is small enough for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from tidegate.core.session_key import MAX_KEY_BYTES, parts_of, session_key
from tidegate.edge.auth.authentication import Decision
from tidegate.edge.auth.methods import Step
from tidegate.edge.channel import Peer
from tidegate.edge.client.client import Accepted, may_publish
from tidegate.edge.client.delivery import Delivery
from tidegate.edge.client.enhanced_auth import authenticate
from tidegate.edge.client.group_rights import look_at_groups
from tidegate.edge.client.publish import PublishReceiver
from tidegate.edge.client.subscribe import resume_retained
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachSession,
    RouterUnavailable,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.packets import ConnAck, Connect, Properties, Will
from tidegate.runtime.config.model import ListenerConfig

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.client.context import EdgeContext
    from tidegate.edge.client.registry import ClientRegistry

RECEIVE_MAXIMUM_DEFAULT: Final = 65535
#: When a session that another user has is looked at once more: at another edge, its connection may
#: have ended just before.
OWNER_RETRY_S: Final = 0.25


@dataclass(slots=True, frozen=True)
class Refused:
    """A CONNECT that is answered with a reason code; ``reason`` is the Reason String, if any.

    ``cause`` is for the log only: it may say more than the client may learn.
    """

    reason_code: ReasonCode
    reason: str = ""
    #: Where the name of the reason code says too little.
    counted_as: str = ""
    cause: str = ""


@dataclass(slots=True, frozen=True)
class _Identity:
    """Who a client has been found to be."""

    username: str | None
    by_password: bool = False
    #: The last step of enhanced authentication, and its method.
    method: str | None = None
    data: bytes | None = None


#: Client identifier, user name, password, where it comes from, through which listener.
_Credentials: TypeAlias = tuple[str, str | None, bytes | None, Peer, ListenerConfig]

_FULL: Final = Refused(ReasonCode.QUOTA_EXCEEDED, "connection limit reached")
_OWNED: Final = Refused(
    ReasonCode.NOT_AUTHORIZED, "the session belongs to another user", "session_owner"
)
_TOO_MANY: Final = Refused(
    ReasonCode.QUOTA_EXCEEDED, "the user has too many sessions", "session_quota"
)
_TAKEN_OVER: Final = Refused(ReasonCode.SERVER_BUSY, "session taken over by a newer connection")


async def connect(
    client: Client, packet: Connect, registry: ClientRegistry
) -> Accepted | Refused | None:
    """Decide about a CONNECT (MQTT5 §3.1.4); None when the connection ended meanwhile.

    What is accepted owns its session: ``accept`` must follow in the same turn of the event loop.
    """
    context = client.context
    client_id = _client_id(client, packet)
    if not isinstance(client_id, str):
        return client_id
    key = session_key(client.listener.mount_point, client_id)
    if registry.is_full_for(key):
        return _FULL
    if context.banned.is_any and (banned := _banned(client, client_id, packet.username)):
        return banned
    identity = await _identify(client, packet, client_id)
    if not isinstance(identity, _Identity):
        return identity
    if context.banned.is_any and (banned := _banned(client, client_id, identity.username)):
        return banned
    acl = context.authorizer.for_client(client_id, identity.username, client.listener)
    refused = _prepare_will(client, packet.will, lambda topic: may_publish(acl, topic))
    if refused is not None:
        return refused
    expiry_s = session_expiry_s(client, packet)
    if client.maximum_packet_size_bytes:
        connack = _connack(client, packet, client_id, expiry_s, identity)
        if not client.can_be_sent(connack):  # before it takes the session from another connection
            client.close_unanswered(connack)
            return None
    request = AttachSession(
        key,
        packet.clean_start,
        expiry_s,
        packet.will,
        identity.username,
        checks_user=context.authorizer.session_owner == "user",
        is_wanted=lambda: not client.is_closed,
    )
    session = await _attach(client, registry, request, identity)
    if not isinstance(session, AttachedSession):
        return session
    # The rules may have changed since it came, and only who is connected learns of that.
    acl = context.authorizer.for_client(client_id, identity.username, client.listener)
    connack = _connack(client, packet, client_id, expiry_s, identity)
    connack.session_present = session.session_present
    asked = packet.properties
    aliases = min(asked.topic_alias_maximum or 0, context.limits.max_topic_alias_outgoing)
    return Accepted(
        client_id,
        key,
        identity.username,
        identity.by_password,
        identity.method,
        acl,
        session,
        expiry_s,
        _keep_alive_s(client, packet.keep_alive),
        asked.receive_maximum or RECEIVE_MAXIMUM_DEFAULT,
        aliases if packet.protocol_version >= ProtocolVersion.V5 else 0,
        connack,
    )


def accept(client: Client, accepted: Accepted, registry: ClientRegistry) -> None:
    """Let a client have what its CONNECT was granted, and answer it."""
    older = registry.clients.get(accepted.session_key)
    if older is not None:
        older.taken_over(ReasonCode.SESSION_TAKEN_OVER)
    client.accept(accepted)
    session = accepted.session
    receiver = PublishReceiver(client, session.receipts, session.receipt_wraps)
    delivery = Delivery(client, accepted.receive_maximum)
    client.inbound, client.queue.on_publish = receiver, receiver.on_publish
    client.delivery, client.queue.on_puback = delivery, delivery.on_puback
    registry.add(client)
    for topic_filter, options in session.subscriptions:
        client.subscriptions[topic_filter] = options
        if not topic_filter.startswith("$share/"):
            registry.subscribe(client, topic_filter, options)
    look_at_groups(client)
    client.send_packet(accepted.connack)
    if not client.is_closed:
        client.context.connection_log.connected(client, session.session_present)
        client.context.recorder.connected(client, session.session_present)
        delivery.begin(session)
        if session.replays:
            resume_retained(client, session.replays, registry)


def _client_id(client: Client, packet: Connect) -> str | Refused:
    """The client identifier, assigned if the client has none and may do so."""
    context, version = client.context, packet.protocol_version
    if packet.client_id:
        length = len(packet.client_id.encode())
        key_length = length + 1 + len(client.listener.mount_point.encode())
        if length > context.limits.max_client_id_bytes or (
            client.listener.mount_point and key_length > MAX_KEY_BYTES
        ):
            return Refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "client identifier is too long")
        return packet.client_id
    if (
        not context.features.allow_empty_client_id
        or version == ProtocolVersion.V31  # it has no such thing: 1 to 23 characters
        or (version == ProtocolVersion.V311 and not packet.clean_start)  # [MQTT311-3.1.3-8]
    ):
        return Refused(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "client identifier required")
    return context.assign_client_id()


def _banned(client: Client, client_id: str, user: str | None) -> Refused | None:
    """Refuse a client that is banned."""
    ban = client.context.banned.find(client_id, client, user)
    return Refused(ReasonCode.BANNED, "banned", cause=ban.reason) if ban is not None else None


async def _identify(client: Client, packet: Connect, client_id: str) -> _Identity | Refused | None:
    """Find out who a client is; None when the connection ended meanwhile."""
    properties = packet.properties
    method = properties.authentication_method
    if method is not None:
        step = await authenticate(
            client, method, properties.authentication_data, client_id, packet.username
        )
        return _proven(step, method) if step is not None else None
    arguments = (
        client_id,
        packet.username,
        packet.password,
        client.channel.peer,
        client.listener,
    )
    decision = client.context.authenticator.authenticate_now(*arguments)
    if decision is None:
        decision = await _verify(client, arguments)
    if decision is None or client.is_closed:
        return None
    if not decision.allowed:
        client.context.counters.auth_failures[decision.reason] += 1
        return Refused(decision.reason_code, cause=decision.reason)
    return _Identity(decision.username, decision.by_password)


async def _verify(client: Client, arguments: _Credentials) -> Decision | None:
    """Wait for a password's verification, and withdraw it when the connection ends (None)."""
    context = client.context
    timeout_s = client.since_s + context.limits.connect_timeout_s - context.time_s()
    verifying = asyncio.ensure_future(
        context.authenticator.authenticate(*arguments, timeout_s=max(0.0, timeout_s))
    )
    client.on_end = verifying.cancel
    try:
        await asyncio.wait([verifying])
    finally:
        verifying.cancel()
        client.on_end = None
    return None if verifying.cancelled() else verifying.result()


def _proven(step: Step, method: str) -> _Identity | Refused:
    """The outcome of an enhanced authentication."""
    if step.reason_code == ReasonCode.SUCCESS:
        return _Identity(step.username, False, method, step.data)
    if step.reason_code == ReasonCode.BAD_AUTHENTICATION_METHOD:
        return Refused(step.reason_code, "authentication method not supported")
    return Refused(step.reason_code)


def _prepare_will(
    client: Client, will: Will | None, may_write: Callable[[str], bool]
) -> Refused | None:
    """Check a will and put it under the mount point."""
    if will is None:
        return None
    context = client.context
    if will.qos > client.listener.max_qos:
        # [MQTT-3.2.2-12]
        return Refused(ReasonCode.QOS_NOT_SUPPORTED, "QoS of the will is not supported")
    if will.retain and not context.features.retain:
        # [MQTT-3.2.2-13]
        return Refused(ReasonCode.RETAIN_NOT_SUPPORTED, "retain is not supported for the will")
    if client.listener.mount_point:
        will.topic = client.listener.mount_point + will.topic
    if will.topic.count("/") >= context.limits.max_topic_levels:
        return Refused(ReasonCode.TOPIC_NAME_INVALID, "will topic has too many levels")
    if not may_write(will.topic):
        return Refused(ReasonCode.NOT_AUTHORIZED, "not authorized to publish to the will topic")
    return None


def session_expiry_s(client: Client, packet: Connect) -> int:
    """How long the session may outlive its connection, in seconds, capped."""
    limits = client.context.limits
    if packet.protocol_version < ProtocolVersion.V5:
        return 0 if packet.clean_start else limits.legacy_session_expiry_s
    return min(packet.properties.session_expiry_interval or 0, limits.max_session_expiry_s)


async def _attach(
    client: Client, registry: ClientRegistry, request: AttachSession, identity: _Identity
) -> AttachedSession | Refused | None:
    """Get the session from the router; None when the connection has ended."""
    context, key = client.context, request.client_id
    ending = registry.detaching.get(key)
    if ending is not None:
        context.router.hasten(key)
        # The router must have the end of the last connection before the next one begins.
        await asyncio.wait([ending], timeout=context.limits.connect_timeout_s)
    if client.is_closed:
        return None
    if registry.is_full_for(key):
        # Others have connected meanwhile. Refused later, it would have taken over a session.
        return _FULL
    own = registry.clients.get(key)
    if own is not None:
        request = replace(request, own_epoch=own.epoch)
    attaching = registry.attach_begins(key)
    try:
        session = await _attach_for_user(context, request)
    except SessionOwned:
        return None if client.is_closed else _OWNED
    except SessionQuotaExceeded:
        return None if client.is_closed else _TOO_MANY
    except RouterUnavailable as error:
        if client.is_closed:
            return None
        return Refused(
            ReasonCode.SERVER_UNAVAILABLE, "session store is unavailable", cause=str(error)
        )
    finally:
        registry.attach_ends(key)
    outcome: Refused | None = None
    if not client.is_closed:
        older = registry.clients.get(key)
        if session.epoch <= attaching.lost_epoch or (
            older is not None and older.epoch > session.epoch
        ):
            outcome = _TAKEN_OVER
        elif identity.by_password and not context.authenticator.knows(
            identity.username, client.listener
        ):
            outcome = Refused(ReasonCode.NOT_AUTHORIZED, "user has been removed")
        else:
            outcome = _banned(client, parts_of(key)[1], identity.username)
            if outcome is None:
                return session
    _give_back(client, request, session.epoch, registry)
    return outcome


async def _attach_for_user(context: EdgeContext, request: AttachSession) -> AttachedSession:
    """Attach; twice, if another user has the session. Raises SessionOwned, RouterUnavailable."""
    try:
        return await context.router.attach(context.edge_id, request)
    except SessionOwned:
        await asyncio.sleep(OWNER_RETRY_S)
    return await context.router.attach(context.edge_id, request)


def _give_back(
    client: Client, request: AttachSession, epoch: int, registry: ClientRegistry
) -> None:
    """End a session that has begun and that no connection takes; its will by its rules."""
    will, goodbye = request.will, client.queue.waiting_disconnect()
    publish_will = goodbye is None or goodbye.reason_code != ReasonCode.SUCCESS
    if will is not None and publish_will:
        authorizer = client.context.authorizer
        acl = authorizer.for_client(
            parts_of(request.client_id)[1], request.username, client.listener
        )
        publish_will = may_publish(acl, will.topic)
    registry.detach(DetachSession(request.client_id, epoch, publish_will))


def _keep_alive_s(client: Client, asked_s: int) -> int:
    """The keep alive in force, in seconds; 0 is none."""
    longest = client.context.limits.max_keep_alive_s
    if longest and (not asked_s or asked_s > longest):
        return longest
    return asked_s


def _connack(
    client: Client, packet: Connect, client_id: str, expiry_s: int, identity: _Identity
) -> ConnAck:
    """CONNACK of an accepted client, without Session Present."""
    connack = ConnAck(False, ReasonCode.SUCCESS)
    if packet.protocol_version >= ProtocolVersion.V5:
        connack.properties = _connack_properties(client, packet, client_id, expiry_s)
        if identity.method is not None:
            connack.properties.authentication_method = identity.method
            connack.properties.authentication_data = identity.data
    return connack


def _connack_properties(
    client: Client, packet: Connect, client_id: str, expiry_s: int
) -> Properties:
    """What the server says of itself to an MQTT 5 client (MQTT5 §3.2.2.3)."""
    keep_alive_s = _keep_alive_s(client, packet.keep_alive)
    features, announced = client.context.features, client.announced_limits
    asked = packet.properties
    answer = Properties(
        receive_maximum=announced.receive_maximum,
        maximum_packet_size=announced.max_packet_size_bytes,
        topic_alias_maximum=announced.max_topic_alias or None,
        assigned_client_identifier=client_id if not packet.client_id else None,
    )
    if expiry_s != (asked.session_expiry_interval or 0):
        answer.session_expiry_interval = expiry_s
    if keep_alive_s != packet.keep_alive:
        answer.server_keep_alive = keep_alive_s
    if client.listener.max_qos < 2:
        answer.maximum_qos = client.listener.max_qos
    if not features.retain:
        answer.retain_available = 0
    if not features.wildcard_subscriptions:
        answer.wildcard_subscription_available = 0
    if not features.shared_subscriptions:
        answer.shared_subscription_available = 0
    if asked.request_response_information and features.response_information:
        answer.response_information = features.response_information.replace(
            "{client_id}", client_id
        )
    return answer
