"""CONNECT: from the packet to CONNACK, one check after the other.

Called by ``dispatch``. ``Connecting`` decides; ``accept`` is the one place where a client takes
what was decided. Everything that can be refused is refused here, with the reason code that the
specification names. Asks the authenticator and the router. In its usual way it has no task of its
own, since there are many CONNECTs when a fleet comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tidegate.core.session_key import MAX_KEY_BYTES, parts_of, session_key
from tidegate.edge.auth.authentication import Decision
from tidegate.edge.auth.methods import Step
from tidegate.edge.channel import Peer
from tidegate.edge.client.client import Accepted, may_publish
from tidegate.edge.client.delivery import delivery_of
from tidegate.edge.client.enhanced_auth import authenticate
from tidegate.edge.client.group_rights import look_at_groups
from tidegate.edge.client.publish import begin_receiving
from tidegate.edge.client.receipts import Receipts
from tidegate.edge.client.state import ANSWERING
from tidegate.edge.client.subscribe import resume_retained
from tidegate.link.interfaces import (
    AttachedSession,
    AttachSession,
    DetachedSession,
    DetachSession,
    RouterUnavailable,
    SessionOwned,
    SessionQuotaExceeded,
)
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import NO_PROPERTIES, ConnAck, Connect, Properties, Will
from tidegate.runtime.config.model import ListenerConfig

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client
    from tidegate.edge.client.registry import Attaching, ClientRegistry

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


@dataclass(slots=True)
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


class Connecting:
    """One CONNECT: decided in the call that starts it and in the one that has the session.

    What takes time for some clients only is a coroutine, which goes on with the next step.
    """

    __slots__ = (
        "_attaching",
        "_client",
        "_client_id",
        "_expiry_s",
        "_identity",
        "_is_repeated",
        "_key",
        "_packet",
        "_registry",
        "_request",
    )

    #: These are set by the steps, in this order.
    _client_id: str
    _key: str
    _identity: _Identity
    _expiry_s: int
    _request: AttachSession
    _attaching: Attaching

    def __init__(self, client: Client, packet: Connect, registry: ClientRegistry) -> None:
        self._client = client
        self._packet = packet
        self._registry = registry
        self._is_repeated = False

    def start(self) -> None:
        """Begin to decide (MQTT5 §3.1.4). What the client sends after it waits until CONNACK."""
        client, packet, context = self._client, self._packet, self._client.context
        client.queue.pause_reading(ANSWERING)
        client_id = _client_id(client, packet)
        if isinstance(client_id, Refused):
            self._refuse(client_id)
            return
        self._client_id = client_id
        self._key = key = session_key(client.listener.mount_point, client_id)
        if self._registry.is_full_for(key):
            self._refuse(_FULL)
            return
        if context.banned.is_any and (banned := _banned(client, client_id, packet.username)):
            self._refuse(banned)
            return
        identity = _identify_now(client, packet, client_id)
        if identity is not None:
            self._identified(identity)
        else:
            self._spawn(self._identify())

    async def _identify(self) -> None:
        identity = await _identify(self._client, self._packet, self._client_id)
        if identity is not None:
            self._identified(identity)

    def _identified(self, identity: _Identity | Refused) -> None:
        """Check what depends on who the client is."""
        client, packet, context = self._client, self._packet, self._client.context
        if isinstance(identity, Refused):
            self._refuse(identity)
            return
        self._identity = identity
        client_id, username = self._client_id, identity.username
        if context.banned.is_any and (banned := _banned(client, client_id, username)):
            self._refuse(banned)
            return
        if packet.will is not None:
            acl = context.authorizer.for_client(client_id, username, client.listener)
            refused = _prepare_will(client, packet.will, lambda topic: may_publish(acl, topic))
            if refused is not None:
                self._refuse(refused)
                return
        self._expiry_s = session_expiry_s(client, packet)
        if client.maximum_packet_size_bytes:
            connack = self._connack()
            if not client.can_be_sent(connack):  # before it takes another connection's session
                client.close_unanswered(connack)
                return
        ending = self._registry.detaching.get(self._key)
        if ending is None:
            self._attach()
        else:
            self._spawn(self._attach_after(ending))

    async def _attach_after(self, ending: asyncio.Future[DetachedSession]) -> None:
        """Attach when the router has the end of the last connection."""
        context = self._client.context
        context.router.hasten(self._key)
        await asyncio.wait([ending], timeout=context.limits.connect_timeout_s)
        if not self._client.is_closed:
            self._attach()

    def _attach(self) -> None:
        """Have the router get the session."""
        client, packet, key = self._client, self._packet, self._key
        if self._registry.is_full_for(key):
            # Others have connected meanwhile. Refused later, it would have taken over a session.
            self._refuse(_FULL)
            return
        own = self._registry.clients.get(key)
        self._request = AttachSession(
            key,
            packet.clean_start,
            self._expiry_s,
            packet.will,
            self._identity.username,
            checks_user=client.context.authorizer.session_owner == "user",
            own_epoch=own.epoch if own is not None else 0,
            is_wanted=lambda: not client.is_closed,
        )
        self._attaching = self._registry.attach_begins(key)
        self._send()

    def _send(self) -> None:
        context = self._client.context
        try:
            attached = self._ask_router()
        except Exception:
            self._registry.attach_ends(self._key)
            raise
        if attached.done():
            self._attached(attached)
        else:
            context.follow(attached, self._attached)

    def _ask_router(self) -> asyncio.Future[AttachedSession]:
        context, own = self._client.context, self._registry.clients.get(self._key)
        if (
            own is not None
            and not own.is_stored  # otherwise the store decides
            and self._request.checks_user
            and (own.username or "") != (self._request.username or "")
        ):
            owned: asyncio.Future[AttachedSession] = asyncio.get_running_loop().create_future()
            owned.set_exception(SessionOwned())
            return owned
        return asyncio.ensure_future(context.router.attach(context.edge_id, self._request))

    async def _send_again(self) -> None:
        await asyncio.sleep(OWNER_RETRY_S)
        self._send()

    def _attached(self, attached: asyncio.Future[AttachedSession]) -> None:
        """Take what the router has answered."""
        error = None if attached.cancelled() else attached.exception()
        if isinstance(error, SessionOwned) and not self._is_repeated:
            self._is_repeated = True
            self._spawn(self._send_again())
            return
        self._registry.attach_ends(self._key)
        if attached.cancelled():
            return
        try:
            if error is None:
                self._take(attached.result())
            else:
                self._refuse(_refusal(error))
        except Exception:
            self._client.fail_internally()

    def _take(self, session: AttachedSession) -> None:
        """Accept, or give the session back: much may have happened meanwhile."""
        client, registry = self._client, self._registry
        refused = self._refusal_now(session) if not client.is_closed else None
        if client.is_closed or refused is not None:
            if refused is not None:
                self._refuse(refused)
            _give_back(client, self._request, session, registry)
            return
        accept(client, self._accepted(session), registry)
        client.queue.resume(ANSWERING)

    def _refusal_now(self, session: AttachedSession) -> Refused | None:
        client, identity = self._client, self._identity
        older = self._registry.clients.get(self._key)
        if session.epoch <= self._attaching.lost_epoch or (
            older is not None and older.epoch > session.epoch
        ):
            return _TAKEN_OVER
        if identity.by_password and not client.context.authenticator.knows(
            identity.username, client.listener
        ):
            return Refused(ReasonCode.NOT_AUTHORIZED, "user has been removed")
        return _banned(client, self._client_id, identity.username)

    def _accepted(self, session: AttachedSession) -> Accepted:
        client, packet, identity = self._client, self._packet, self._identity
        limits, asked = client.context.limits, packet.properties
        connack = self._connack()
        connack.session_present = session.session_present
        aliases = min(asked.topic_alias_maximum or 0, limits.max_topic_alias_outgoing)
        return Accepted(
            self._client_id,
            self._key,
            identity.username,
            identity.by_password,
            identity.method,
            # The rules may have changed since it came: only who is connected learns of that.
            client.context.authorizer.for_client(
                self._client_id, identity.username, client.listener
            ),
            session,
            self._expiry_s,
            _keep_alive_s(client, packet.keep_alive),
            asked.receive_maximum or RECEIVE_MAXIMUM_DEFAULT,
            aliases if packet.protocol_version >= ProtocolVersion.V5 else 0,
            packet.will,
            connack,
        )

    def _connack(self) -> ConnAck:
        return _connack(self._client, self._packet, self._client_id, self._expiry_s, self._identity)

    def _refuse(self, refused: Refused) -> None:
        self._client.refuse(refused.reason_code, refused.reason, refused.counted_as, refused.cause)

    def _spawn(self, step: Coroutine[Any, Any, None]) -> None:
        self._client.context.spawn(self._run(step))

    async def _run(self, step: Coroutine[Any, Any, None]) -> None:
        try:
            await step
        except MqttError as error:
            self._client.fail(error)
        except Exception:
            self._client.fail_internally()


def accept(client: Client, accepted: Accepted, registry: ClientRegistry) -> None:
    """Let a client have what its CONNECT was granted, and answer it."""
    older = registry.clients.get(accepted.session_key)
    if older is not None:
        older.taken_over(ReasonCode.SESSION_TAKEN_OVER)
    client.accept(accepted)
    session = accepted.session
    if session.incarnation:
        receipts = Receipts(session.incarnation, session.receipts, session.receipt_wraps)
        begin_receiving(client, receipts)
        delivery_of(client)
    registry.add(client)
    if session.subscriptions:
        registry.subscribe(client, session.subscriptions)
    look_at_groups(client)
    client.send_packet(accepted.connack)
    if not client.is_closed:
        client.context.connection_log.connected(client, session.session_present)
        client.context.recorder.connected(client, session.session_present)
        if session.incarnation:
            delivery_of(client).begin(session)
        if session.replays:
            resume_retained(client, session.replays, registry)
    client.connect = None  # of it only the will is needed


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


def _identify_now(client: Client, packet: Connect, client_id: str) -> _Identity | Refused | None:
    """Find out who a client is; None when that takes time."""
    if packet.properties.authentication_method is not None:
        return None
    credentials = _credentials(client, packet, client_id)
    decision = client.context.authenticator.authenticate_now(*credentials)
    return _decided(client, decision) if decision is not None else None


async def _identify(client: Client, packet: Connect, client_id: str) -> _Identity | Refused | None:
    """Find out who a client is; None when the connection ended meanwhile."""
    properties = packet.properties
    method = properties.authentication_method
    if method is not None:
        step = await authenticate(
            client, method, properties.authentication_data, client_id, packet.username
        )
        return _proven(step, method) if step is not None else None
    decision = await _verify(client, _credentials(client, packet, client_id))
    if decision is None or client.is_closed:
        return None
    return _decided(client, decision)


def _credentials(client: Client, packet: Connect, client_id: str) -> _Credentials:
    return client_id, packet.username, packet.password, client.channel.peer, client.listener


def _decided(client: Client, decision: Decision) -> _Identity | Refused:
    """The outcome of a user name and password."""
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


def _prepare_will(client: Client, will: Will, may_write: Callable[[str], bool]) -> Refused | None:
    """Check a will and put it under the mount point."""
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


def _refusal(error: BaseException) -> Refused:
    """Return what a CONNECT is refused with when the router has no session for it."""
    if isinstance(error, SessionOwned):
        return _OWNED
    if isinstance(error, SessionQuotaExceeded):
        return _TOO_MANY
    if isinstance(error, RouterUnavailable):
        return Refused(
            ReasonCode.SERVER_UNAVAILABLE, "session store is unavailable", cause=str(error)
        )
    raise error


def _give_back(
    client: Client, request: AttachSession, session: AttachedSession, registry: ClientRegistry
) -> None:
    """End a session that has begun and that no connection takes; its will by its rules."""
    if not session.is_stored:
        return
    will, goodbye = request.will, client.queue.waiting_disconnect()
    publish_will = client.ending.publishes_will and (
        goodbye is None or goodbye.reason_code != ReasonCode.SUCCESS
    )
    if will is not None and publish_will:
        authorizer = client.context.authorizer
        acl = authorizer.for_client(
            parts_of(request.client_id)[1], request.username, client.listener
        )
        publish_will = may_publish(acl, will.topic)
    registry.detach(DetachSession(request.client_id, session.epoch, publish_will))


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
    properties = NO_PROPERTIES
    if packet.protocol_version >= ProtocolVersion.V5:
        properties = _connack_properties(client, packet, client_id, expiry_s)
        if identity.method is not None:
            properties.authentication_method = identity.method
            properties.authentication_data = identity.data
    return ConnAck(False, ReasonCode.SUCCESS, properties)


def _connack_properties(
    client: Client, packet: Connect, client_id: str, expiry_s: int
) -> Properties:
    """What the server says of itself to an MQTT 5 client (MQTT5 §3.2.2.3)."""
    keep_alive_s = _keep_alive_s(client, packet.keep_alive)
    features, announced = client.context.features, client.connection.settings
    asked = packet.properties
    answer = Properties(
        receive_maximum=announced.receive_maximum,
        maximum_packet_size=announced.max_packet_size_bytes,
        topic_alias_maximum=announced.topic_alias_maximum or None,
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
