"""CONNECT: from the packet to CONNACK, one check after the other.

Called by a client for its CONNECT; asks the authenticator and the router. Everything that can be
refused is refused here, with the reason code the specification names and a counted reason.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from tidegate.edge.client.delivery import Delivery
from tidegate.edge.client.enhanced_auth import Step, authenticate
from tidegate.edge.client.publish import PublishReceiver
from tidegate.link.interfaces import AttachedSession, AttachSession, RouterUnavailable
from tidegate.mqtt.connection import OutgoingAliases
from tidegate.mqtt.enums import ProtocolVersion, ReasonCode
from tidegate.mqtt.packets import ConnAck, Connect, Properties, Will

if TYPE_CHECKING:
    from tidegate.edge.client.client import Client

log = logging.getLogger(__name__)

KEEP_ALIVE_FACTOR: Final = 1.5
RECEIVE_MAXIMUM_DEFAULT: Final = 65535
TOO_MANY: Final = "the server has as many clients as it may"


class Attaching:
    """Connections of one client identifier that wait for their session."""

    __slots__ = ("count", "lost_epoch")

    def __init__(self) -> None:
        self.count = 0
        #: The newest epoch that is over: it may be one whose reply has not been looked at yet.
        self.lost_epoch = 0


async def connect(client: Client, packet: Connect) -> None:
    """Accept or refuse a CONNECT (MQTT5 §3.1.4)."""
    edge = client.edge
    client.version = packet.protocol_version
    properties = packet.properties
    client.problem_information = properties.request_problem_information != 0
    client.maximum_packet_size_bytes = properties.maximum_packet_size or 0
    assigned = ""
    if not packet.client_id:
        version = packet.protocol_version
        if (
            not edge.features.allow_empty_client_id
            or version == ProtocolVersion.V31  # it has no such thing: 1 to 23 characters
            or (version == ProtocolVersion.V311 and not packet.clean_start)  # [MQTT311-3.1.3-8]
        ):
            client.refuse(
                ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "a client identifier is needed here"
            )
            return
        assigned = edge.assign_client_id()
    elif len(packet.client_id.encode()) > edge.limits.max_client_id_bytes:
        client.refuse(ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "the client identifier is too long")
        return
    client.client_id = assigned or packet.client_id
    if edge.is_full_for(client.client_id):
        client.refuse(ReasonCode.QUOTA_EXCEEDED, TOO_MANY)
        return
    proof: Step | None = None
    method = properties.authentication_method
    if method is not None:
        client.username = packet.username
        proof = await authenticate(client, method, properties.authentication_data)
        if proof is None or not _proven(client, proof):
            return
        client.authentication_method = method
    elif not await _authenticate(client, packet):
        return
    will = _will(client, packet.will)
    if client.closed:
        return
    session = await _attach(client, packet, will)
    if session is not None:
        _accept(client, packet, session, assigned, proof)


def _proven(client: Client, proof: Step) -> bool:
    """Take the outcome of an enhanced authentication."""
    if proof.reason_code == ReasonCode.SUCCESS:
        client.username = proof.username
        client.acl = client.edge.authorizer.for_client(client.client_id, proof.username)
        return True
    if proof.reason_code == ReasonCode.BAD_AUTHENTICATION_METHOD:
        client.refuse(proof.reason_code, "this authentication method is not offered")
    else:
        client.refuse(proof.reason_code)
    return False


async def _authenticate(client: Client, packet: Connect) -> bool:
    edge = client.edge
    arguments = (
        client.client_id,
        packet.username,
        packet.password,
        client.channel.peer,
        client.listener,
    )
    decision = edge.authenticator.authenticate_now(*arguments)
    if decision is None:
        decision = await edge.authenticator.authenticate(*arguments)
    if client.closed:
        return False
    if not decision.allowed:
        edge.counters.auth_failures[decision.reason] += 1
        client.refuse(decision.reason_code)
        return False
    client.username = decision.username
    client.by_password = decision.by_password
    client.acl = edge.authorizer.for_client(client.client_id, decision.username)
    return True


def _will(client: Client, will: Will | None) -> Will | None:
    """Check a will and put it under the mount point; refuses the connection if it may not be."""
    if will is None:
        return None
    edge = client.edge
    if will.qos > client.listener.max_qos:
        # [MQTT-3.2.2-12]
        client.refuse(ReasonCode.QOS_NOT_SUPPORTED, "the will's QoS is too high")
    elif will.retain and not edge.features.retain:
        # [MQTT-3.2.2-13]
        client.refuse(ReasonCode.RETAIN_NOT_SUPPORTED, "the will is a retained one")
    else:
        if client.listener.mount_point:
            will.topic = client.listener.mount_point + will.topic
        if will.topic.count("/") >= edge.limits.max_topic_levels:
            client.refuse(ReasonCode.TOPIC_NAME_INVALID, "the will's topic has too many levels")
        elif not client.may_write(will.topic):
            client.refuse(ReasonCode.NOT_AUTHORIZED, "the will's topic is not permitted")
    return will


def session_expiry_s(client: Client, packet: Connect) -> int:
    """How long the session may outlive its connection, in seconds, capped."""
    limits = client.edge.limits
    if packet.protocol_version < ProtocolVersion.V5:
        return 0 if packet.clean_start else limits.legacy_session_expiry_s
    return min(packet.properties.session_expiry_interval or 0, limits.max_session_expiry_s)


async def _attach(client: Client, packet: Connect, will: Will | None) -> AttachedSession | None:
    edge = client.edge
    ending = edge.detaching.get(client.client_id)
    if ending is not None:
        # The end of this client's last connection must be known before the next one begins.
        await asyncio.wait([ending], timeout=edge.limits.connect_timeout_s)
    if client.closed:
        return None
    if edge.is_full_for(client.client_id):
        # Others have come meanwhile. Refused later, it would have taken a session from somebody.
        client.refuse(ReasonCode.QUOTA_EXCEEDED, TOO_MANY)
        return None
    client.session_expiry_s = session_expiry_s(client, packet)
    request = AttachSession(
        client.client_id, packet.clean_start, client.session_expiry_s, will, client.username
    )
    attaching = edge.attaching.setdefault(client.client_id, Attaching())
    attaching.count += 1
    if client.client_id not in edge.clients:
        edge.newcomers.add(client.client_id)
    try:
        session = await edge.router.attach(edge.edge_id, request)
    except RouterUnavailable as error:
        log.warning("refusing a client: no router or store", extra={"reason": str(error)})
        client.refuse(ReasonCode.SERVER_UNAVAILABLE, "sessions cannot be reached now")
        return None
    finally:
        attaching.count -= 1
        if not attaching.count:
            del edge.attaching[client.client_id]
            edge.newcomers.discard(client.client_id)
    client.epoch = session.epoch
    # The rules may be others than when it came, and only who is connected is told of that.
    client.acl = edge.authorizer.for_client(client.client_id, client.username)
    if client.closed:
        # It went away meanwhile, without a DISCONNECT: the session has begun, and ends.
        client.detach()
        return None
    if session.epoch <= attaching.lost_epoch:
        client.refuse(ReasonCode.SERVER_BUSY, "a newer connection has the session")
        client.detach()
        return None
    return session


def _accept(
    client: Client,
    packet: Connect,
    session: AttachedSession,
    assigned: str,
    proof: Step | None,
) -> None:
    edge = client.edge
    older = edge.clients.get(client.client_id)
    if older is not None:
        if older.epoch > client.epoch:
            client.refuse(ReasonCode.SERVER_BUSY, "a newer connection has the session")
            client.detach()
            return
        older.taken_over(ReasonCode.SESSION_TAKEN_OVER)
    properties = packet.properties
    client.incarnation = session.incarnation
    client.durable = session.incarnation != 0
    if client.version >= ProtocolVersion.V5 and properties.topic_alias_maximum:
        limit = min(properties.topic_alias_maximum, edge.limits.max_topic_alias_outgoing)
        client.aliases = OutgoingAliases(limit) if limit else None
    client.inbound = PublishReceiver(client, session.receipts, session.receipt_wraps)
    client.delivery = Delivery(client, properties.receive_maximum or RECEIVE_MAXIMUM_DEFAULT)
    keep_alive_s = _keep_alive_s(client, packet.keep_alive)
    client.deadline_s = keep_alive_s * KEEP_ALIVE_FACTOR
    client.seen_s = edge.tick_s
    edge.waiting.discard(client)
    edge.clients[client.client_id] = client
    edge.newcomers.discard(client.client_id)
    client.connected = True
    edge.counters.connections_accepted += 1
    edge.counters.connections_open += 1
    edge.counters.clients_maximum = max(edge.counters.clients_maximum, len(edge.clients))
    for topic_filter, options in session.subscriptions:
        client.subscriptions[topic_filter] = options
        if not topic_filter.startswith("$share/"):
            edge.subscribe(client, topic_filter, options)
    answer = ConnAck(session.session_present, ReasonCode.SUCCESS)
    if client.version >= ProtocolVersion.V5:
        answer.properties = _connack_properties(client, packet, assigned, keep_alive_s)
        if proof is not None:
            answer.properties.authentication_method = client.authentication_method
            answer.properties.authentication_data = proof.data
    client.send_packet(answer)
    client.delivery.begin(session)


def _keep_alive_s(client: Client, asked_s: int) -> int:
    """The keep alive in force, in seconds; 0 is none."""
    longest = client.edge.limits.max_keep_alive_s
    if longest and (not asked_s or asked_s > longest):
        return longest
    return asked_s


def _connack_properties(
    client: Client, packet: Connect, assigned: str, keep_alive_s: int
) -> Properties:
    """What the server tells an MQTT 5 client about itself (MQTT5 §3.2.2.3)."""
    edge = client.edge
    features = edge.features
    asked = packet.properties
    answer = Properties(
        receive_maximum=client.told.receive_maximum,
        maximum_packet_size=client.told.max_packet_size_bytes,
        topic_alias_maximum=client.told.max_topic_alias or None,
        assigned_client_identifier=assigned or None,
    )
    if client.session_expiry_s != (asked.session_expiry_interval or 0):
        answer.session_expiry_interval = client.session_expiry_s
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
            "{client_id}", client.client_id
        )
    return answer
