"""What a peer can do wrong, as exceptions that carry the answer the specification names.

Raised by the decoders, caught by the connection machine, never seen by the event loop.
"""

from __future__ import annotations

from tidegate.mqtt.enums import ReasonCode


class MqttError(Exception):
    """The peer broke a rule.

    ``reason_code`` is what a DISCONNECT or CONNACK says about it; ``statement`` is the numbered
    statement of the specification that was broken, or an empty string where none is numbered.
    """

    reason_code: ReasonCode = ReasonCode.UNSPECIFIED_ERROR

    def __init__(
        self, message: str, *, reason_code: ReasonCode | None = None, statement: str = ""
    ) -> None:
        super().__init__(message)
        if reason_code is not None:
            self.reason_code = reason_code
        self.statement = statement


class MalformedPacket(MqttError):
    """The bytes cannot be parsed as the packet they claim to be (MQTT5 §1.2, 0x81)."""

    reason_code = ReasonCode.MALFORMED_PACKET


class ProtocolViolation(MqttError):
    """The packet parses, but is not allowed here or says what is not allowed (0x82)."""

    reason_code = ReasonCode.PROTOCOL_ERROR
