"""What reasons mean, in words for people, and what to do about each.

Tables of ``timeline`` and ``why``: one row for each reason that needs more than its name. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Reason of a refused connection -> (what it means, what to do).
REFUSED: Final[Mapping[str, tuple[str, str]]] = {
    "bad_password": (
        "wrong password",
        "correct the password in the device, or set it again with `tidegate passwd`",
    ),
    "unknown_user": (
        "no such user",
        "add the user with `tidegate passwd`, or correct the user name in the device",
    ),
    "no_password": ("user name without a password", "give the device a password"),
    "anonymous": (
        "no user name, and anonymous clients are not allowed",
        "give the device a user name and a password, or set auth.allow_anonymous",
    ),
    "no_certificate": (
        "no client certificate",
        "give the device a certificate of the CA in the listener's tls.client_ca",
    ),
    "busy": (
        "too many passwords are waiting to be verified",
        "let devices wait longer, and by random times, before they reconnect; raise "
        "auth.password_threads",
    ),
    "bad_user_name_or_password": (
        "wrong user name or password",
        "compare user name and password in the device with auth.password_file",
    ),
    "not_authorized": (
        "not authorized",
        "look at `detail`: a user that was removed, or a will topic that the ACL denies",
    ),
    "session_owner": (
        "the session belongs to another user",
        "use another client identifier, end the session of the other user, or set "
        "auth.session_owner: any",
    ),
    "session_quota": (
        "the user has as many sessions as limits.max_sessions_per_user allows",
        "end sessions that are not used any more, or raise the limit",
    ),
    "quota_exceeded": (
        "a limit on connections was reached",
        "raise limits.max_connections, or add edges",
    ),
    "client_identifier_not_valid": (
        "the client identifier is not accepted",
        "shorten it to limits.max_client_id_bytes, or give the device one",
    ),
    "client_identifier": (
        "the client identifier is not accepted",
        "shorten it to limits.max_client_id_bytes, or give the device one",
    ),
    "server_unavailable": (
        "the session store could not be reached",
        "look at the store: tidegate_store_circuit_open, and the log of the routers",
    ),
    "unavailable": (
        "the session store could not be reached",
        "look at the store: tidegate_store_circuit_open, and the log of the routers",
    ),
    "unsupported_protocol_version": (
        "a version of MQTT that is not supported",
        "use MQTT 3.1, 3.1.1 or 5.0",
    ),
    "protocol_error": (
        "what it sent is no valid CONNECT",
        "look for `closing connection: protocol error` in the log: it names the rule",
    ),
    "malformed_packet": (
        "what it sent is no valid packet",
        "look for `closing connection: protocol error` in the log: it names the rule",
    ),
    "connect_timeout": (
        "no complete CONNECT within limits.connect_timeout_s",
        "look at the network between device and edge: packets are lost, or very slow",
    ),
    "abandoned": (
        "the device closed the connection before it had an answer",
        "raise the time for which the device waits for CONNACK",
    ),
    "tls_handshake": (
        "the TLS handshake failed",
        "look at `detail`: the device does not speak TLS, does not trust the listener's "
        "certificate, or its own is not accepted",
    ),
    "timeout": (
        "the handshake of TLS, WebSocket or a proxy was not complete in time",
        "look at the network between device and edge, and whether the device speaks what the "
        "listener expects",
    ),
    "not_mqtt": (
        "what came is not MQTT",
        "compare the port that the device uses with the listeners: tcp, tls, ws and wss",
    ),
    "not_websocket": (
        "what came is no WebSocket request",
        "compare the port that the device uses with the listeners: tcp, tls, ws and wss",
    ),
    "proxy_untrusted": (
        "the proxy is not one that the listener trusts",
        "add the proxy's network to trusted_proxies of the listener",
    ),
    "proxy_header": (
        "the PROXY protocol header is missing or not valid",
        "have the proxy send it, or set proxy_protocol of the listener to off",
    ),
    "max_connections": (
        "there are as many connections as limits allow",
        "raise limits.max_connections or max_connections of the listener, or add edges",
    ),
    "max_connections_per_address": (
        "its address has as many connections as limits allow",
        "raise limits.max_connections_per_address, or find out what connects so often",
    ),
    "descriptors": (
        "the edge may not open more files",
        "raise the limit of open files (LimitNOFILE, ulimit -n), or add edges",
    ),
    "unfinished_bytes": (
        "it was the largest of too many connections that had sent a part of CONNECT only",
        "find out what connects and does not go on",
    ),
    "websocket_403": (
        "the Origin of the page is not allowed",
        "add the page's origin to the WebSocket listener's allowed_origins",
    ),
    "websocket_404": ("there is no WebSocket at this path", "use the path of the listener: /mqtt"),
    "use_another_server": ("the edge was draining", "nothing: it connects to another edge"),
    "server_shutting_down": ("the edge was stopping", "nothing: it connects to another edge"),
    "server_busy": (
        "a newer connection with the same client identifier came first",
        "give each device a client identifier of its own",
    ),
    "retain_not_supported": ("its will is retained, and retain is off", "set features.retain"),
    "qos_not_supported": (
        "the QoS of its will is not supported by the listener",
        "lower the QoS of the will, or raise max_qos of the listener",
    ),
    "banned": ("banned", "remove the ban if it is over"),
}

#: Reason of the end of a connection -> what it means.
CLOSED: Final[Mapping[str, str]] = {
    "disconnect": "the client sent DISCONNECT",
    "disconnect_with_will": "the client sent DISCONNECT and asked for its will",
    "peer_closed": "the client, or a proxy before it, closed the connection",
    "reset": "the connection was reset by the client or the network",
    "timeout": "the network gave no answer any more",
    "lost": "the connection was lost",
    "write_timeout": "the client did not read what it was sent",
    "slow_consumer": "the client did not read what it was sent",
    "tls_error": "a TLS error",
    "websocket_error": "a WebSocket error",
    "administrative_action": "an administrator disconnected it",
    "not_authorized": "its user was removed from the password file",
    "protocol_error": "it broke a rule of MQTT",
    "malformed_packet": "it sent a packet that is not valid",
    "packet_too_large": "it sent a packet above limits.max_packet_size_bytes",
    "receive_maximum_exceeded": "it sent more messages at once than Receive Maximum allows",
    "topic_name_invalid": "it published to a topic name that is not valid",
    "session_lost": "the store went back to an older state, and lost its session",
    "answer_too_large": "an answer was larger than the Maximum Packet Size that it accepts",
    "server_shutting_down": "the edge stopped",
    "use_another_server": "the edge moved its clients to other edges",
    "shutdown": "the edge stopped",
    "shed": "another edge had more room",
    "implementation_specific_error": "an error of Tidegate: see the log",
    "quota_exceeded": "a quota was exceeded",
}

#: Reason of a dropped message -> (what it means, what to do).
DROPPED: Final[Mapping[str, tuple[str, str]]] = {
    "queue_full": (
        "its queue was full",
        "connect the client so that it takes its messages, or clear the queue; raise "
        "limits.max_queued_messages, or publish with a message expiry",
    ),
    "queue_bytes": (
        "its queue had as many bytes as are allowed",
        "connect the client so that it takes its messages; raise limits.max_durable_queue_bytes "
        "or limits.max_queued_bytes",
    ),
    "expired": (
        "their message expiry had passed",
        "publish with a longer message expiry interval, or keep the client connected",
    ),
    "too_large": (
        "they were larger than the Maximum Packet Size of the client",
        "raise the Maximum Packet Size in its CONNECT, or publish smaller messages",
    ),
    "not_authorized": (
        "the ACL does not let it read their topic",
        "add a rule `topic read …` for its user to the ACL file",
    ),
    "slow_consumer": (
        "it does not read as fast as it is sent messages",
        "look at its network and its work for each message; subscribe to less, or with QoS 1 and "
        "a session that is kept",
    ),
    "store_full": (
        "the memory of the store is full",
        "give the store more memory, or delete queues and retained messages that nobody needs",
    ),
    "no_session": ("its session had ended", "nothing: the client has to subscribe again"),
    "session_ended": ("its session had ended", "nothing: the client has to subscribe again"),
    "queue_cleared": ("an operator has cleared its queue", ""),
}

#: Reason of an event of a quota or a rate -> (what it means, what to do).
QUOTA: Final[Mapping[str, tuple[str, str]]] = {
    "publish_rate": (
        "it publishes faster than limits.max_publish_rate or max_publish_bytes_rate: reading is "
        "paused, nothing is lost",
        "publish less often, or raise the limit",
    ),
    "quota_exceeded": (
        "what it published was refused: a quota of retained messages is used up, or the memory of "
        "the store is full",
        "look at limits.max_retained_messages and its neighbours, and at tidegate_store_full",
    ),
    "session_quota": REFUSED["session_quota"],
}


def named(reason: str) -> str:
    """A reason that needs no explanation, as words."""
    return reason.replace("_", " ")
