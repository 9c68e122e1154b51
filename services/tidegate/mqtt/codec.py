"""Bytes to packets and back: the names that the rest of the broker imports."""

from tidegate.mqtt.decode import decode_packet
from tidegate.mqtt.encode import encode, encode_ack, encode_publish

__all__ = ["decode_packet", "encode", "encode_ack", "encode_publish"]
