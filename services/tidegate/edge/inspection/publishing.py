"""What the console publishes through this edge: by the path of every PUBLISH, as no client.

Owns the publishes that no router has confirmed yet. A message of the console is counted, limited
and routed as a client's is; no ACL applies, the console has roles.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from tidegate.edge.client.client import may_publish
from tidegate.edge.inspection.requests import bad, field, text
from tidegate.link.interfaces import FENCED
from tidegate.mqtt.enums import ReasonCode
from tidegate.mqtt.errors import MqttError
from tidegate.mqtt.packets import Properties, Publish
from tidegate.mqtt.properties import forwarded_properties, split_publish_properties
from tidegate.mqtt.topics import validate_topic_name
from tidegate.mqtt.wire import MAX_STRING_BYTES, write_variable
from tidegate.runtime.admin.control import Json
from tidegate.runtime.admin.http import HttpError
from tidegate.runtime.admin.pieces import DESCRIBED, pieces

if TYPE_CHECKING:
    from tidegate.edge.edge import Edge

#: How long the console waits for a confirmation: less than the admin server does.
CONFIRM_S: Final = 4.0
#: Topics of one request to delete.
MOST_DELETED: Final = 500
_NO_ROUTER: Final = "No router takes messages now."


class _Origin:
    """The origin of one message: no client, so that nothing fences it, and no quota counts it."""

    client_id = ""
    epoch = 0
    is_will = False
    is_superseded = False

    def __init__(self) -> None:
        self._name = secrets.token_hex(8)
        self.outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def identity(self, message: Publish) -> str:
        """Name a QoS 2 exchange; no other one has this name."""
        return f"console|{self._name}" if message.qos == 2 else ""

    def receipt(self, message: Publish) -> int:
        """No PUBREC is sent."""
        return -1

    def published(self, message: Publish, code: int) -> None:
        """A router has confirmed it."""
        if not self.outcome.done():
            self.outcome.set_result(code)


class ConsolePublisher:
    """See the module's docstring."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    async def publish(self, value: Json) -> Json:
        """Publish what a request describes. Raises HttpError."""
        message = self._message(value)
        context = self._edge.context
        self._check_router()
        origin = _Origin()
        counters = context.counters
        counters.messages_received[message.qos] += 1
        counters.publish_bytes_received += len(message.payload)
        code = context.router.publish(origin, message)
        if code is None:
            try:
                async with asyncio.timeout(CONFIRM_S):
                    code = await origin.outcome
            except TimeoutError:
                raise HttpError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "No router has confirmed the message yet; it may be published later.",
                ) from None
        if code == FENCED:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, _NO_ROUTER)
        return {"reason_code": code, "reason": ReasonCode(code).name.lower()}

    async def delete_retained(self, topics: Sequence[str]) -> int:
        """Publish an empty retained message for topics, with QoS 0; for how many.

        Fewer when routers take no more: the caller goes on later.
        """
        context = self._edge.context
        published = 0
        async for part in pieces(topics, DESCRIBED):
            for topic in part:
                if context.is_publishing_paused:
                    return published
                context.counters.messages_received[0] += 1
                context.router.publish(_Origin(), Publish(topic, retain=True))
                published += 1
        return published

    def _check_router(self) -> None:
        if self._edge.context.is_publishing_paused:
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, _NO_ROUTER)

    def _message(self, value: Json) -> Publish:
        context = self._edge.context
        limits = context.limits
        topic, payload = text(value, "topic"), _bytes(value, "payload_base64")
        qos, retain = field(value, "qos", int, 0), field(value, "retain", bool, False)
        try:
            validate_topic_name(topic, limits.max_topic_levels, limits.max_topic_bytes)
        except MqttError as error:
            raise bad(f"topic: {error}.") from None
        if "\0" in topic or not may_publish(None, topic):
            raise bad("Nothing can be published below $SYS and $share.")
        if not 0 <= qos <= 2:
            raise bad("qos must be 0, 1 or 2.")
        if retain and not context.features.retain:
            raise bad("features.retain is off: this broker keeps no retained messages.")
        message = Publish(topic, payload, qos, retain)
        self._set_properties(message, field(value, "properties", dict, {}))
        size = len(topic.encode()) + len(payload) + len(message.properties)
        if size > limits.max_packet_size_bytes:
            raise HttpError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The message is larger than limits.max_packet_size_bytes "
                f"({limits.max_packet_size_bytes:,}).",
            )
        return message

    def _set_properties(self, message: Publish, value: Json) -> None:
        context = self._edge.context
        try:
            message.properties = _properties(value)
        except (MqttError, ValueError, TypeError):
            raise bad("properties: a value is too long, or not what MQTT allows.") from None
        expiry, most = field(value, "message_expiry_s", int), context.limits.max_message_expiry_s
        if most and (expiry is None or expiry > most):
            expiry = most
        if expiry is not None:
            message.message_expiry_interval = expiry
            message.expires_at_ms = context.now_ms() + expiry * 1000


def _properties(value: Json) -> bytes:
    """Encode what travels on, checked as that of a client is. Raises ValueError, MqttError."""
    pairs = [(str(name), str(text)) for name, text in field(value, "user_properties", list, [])]
    texts = [field(value, name, str) for name in ("content_type", "response_topic")]
    correlation = _bytes(value, "correlation_data_base64")
    encoded = [
        (text or "").encode() for text in (*texts, *(text for pair in pairs for text in pair))
    ]
    if max(map(len, (*encoded, correlation))) > MAX_STRING_BYTES:
        raise ValueError
    properties = forwarded_properties(
        Properties(
            payload_format_indicator=field(value, "payload_format", int),
            content_type=texts[0],
            response_topic=texts[1],
            correlation_data=correlation or None,
            user_properties=tuple(pairs),
        )
    )
    whole = write_variable(len(properties)) + properties
    split_publish_properties(whole, 0, len(whole))
    return properties


def _bytes(value: Json, name: str) -> bytes:
    found = field(value, name, str, "")
    try:
        return base64.b64decode(found or "", validate=True)
    except (ValueError, binascii.Error):
        raise bad(f"{name} is not base64.") from None
