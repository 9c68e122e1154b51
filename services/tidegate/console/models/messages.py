"""Messages that the console publishes, and samples of what is published."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tidegate.console.models.common import Model


class PublishProperties(Model):
    """MQTT 5 properties of a message."""

    message_expiry_s: int | None = Field(default=None, ge=1, le=0xFFFFFFFF)
    content_type: str | None = Field(default=None, max_length=65_535)
    payload_format: int | None = Field(default=None, ge=0, le=1)
    response_topic: str | None = Field(default=None, max_length=65_535)
    correlation_data_base64: str | None = None
    user_properties: list[tuple[str, str]] = Field(default=[], max_length=100)


class PublishRequest(Model):
    """A message to be published."""

    topic: str = Field(min_length=1, max_length=65_535)
    """With the mount point, where listeners have one."""
    payload: str | None = None
    """As text; or `payload_base64`."""
    payload_base64: str | None = None
    qos: int = Field(default=0, ge=0, le=2)
    retain: bool = False
    properties: PublishProperties = PublishProperties()

    @model_validator(mode="after")
    def _one_payload(self) -> Self:
        if self.payload is not None and self.payload_base64 is not None:
            raise ValueError("payload and payload_base64 are two payloads: give one of them")
        return self


class Published(Model):
    """What has become of a message."""

    edge: str
    """The edge that has published it."""
    reason_code: int
    """As in PUBACK; 0 for QoS 0, which is not acknowledged."""
    reason: str
    """`success`, `no_matching_subscribers`, …"""


class SampleMessage(Model):
    """One event of a sample: `event: message`."""

    at: float
    topic: str
    qos: int
    retain: bool
    payload_size_bytes: int
    payload_base64: str
    """The first 4,096 bytes."""
    is_cut: bool
    content_type: str | None = None
    payload_format: int | None = None
    user_properties: list[tuple[str, str]] = []


class SampleStatus(Model):
    """How much a sample has left away: `event: status`, about once a second."""

    seen: int
    """Messages that matched since the beginning."""
    skipped: int
    """Of these, how many were left away, because of the rate or of the bytes."""
