"""Statuses of gRPC calls that this package sends (grpc-status), and how they travel."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import quote, unquote

from tidegate.link.frame_stream import StreamFailed


class Status(IntEnum):
    """See gRPC's status codes."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    NOT_FOUND = 5
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class CallRefused(StreamFailed):
    """The call ends with this status."""

    def __init__(self, status: Status, text: str) -> None:
        super().__init__(text)
        self.status = status


def trailers(status: Status, text: str = "") -> list[tuple[bytes, bytes]]:
    """Return the headers that end a call."""
    found = [(b"grpc-status", b"%d" % status)]
    if text:
        found.append((b"grpc-message", quote(text, safe=" !#$&'()*+,/:;=?@[]~").encode()))
    return found


def problem_in(headers: dict[bytes, bytes]) -> str:
    """Return what the last headers of a response say that went wrong; "" if nothing did."""
    status = headers.get(b"grpc-status")
    if status is None:
        return "call ended without a status"
    if status == b"0":
        return ""
    text = unquote(headers.get(b"grpc-message", b"").decode("ascii", "replace"))
    return text or f"call ended with status {status.decode('ascii', 'replace')}"
