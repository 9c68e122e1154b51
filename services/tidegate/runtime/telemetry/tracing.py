"""Traces of sampled publishes: spans as cheap as they can be on the event loop, and their context.

One trace per sampled publish: ``publish`` at the publisher's edge, ``route`` in the router,
``append`` and ``retain`` in the store's calls, ``deliver`` at a subscriber's edge. What connects
them is a context of 25 bytes (trace identifier, span identifier, flags) that travels as
``Publish.trace`` and, between processes, in the link.

Spans are made by decorators (``link.traced_links``, ``router.traced_writes``) that the roles put in
place when ``export.start_export`` returns a ``Tracer``; without one there are none, and tracing
costs nothing. A span that ends goes into a bounded queue, which ``otlp`` empties in its own thread.
Never imports opentelemetry, nor ``otlp``.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections import deque
from typing import Final, TypeAlias

from tidegate.core.session_key import parts_of
from tidegate.mqtt.packets import Publish

#: Names of spans, one for each hop.
PUBLISH: Final = "publish"
ROUTE: Final = "route"
APPEND: Final = "append"
RETAIN: Final = "retain"
DELIVER: Final = "deliver"

Attributes: TypeAlias = dict[str, str | int | float | bool]

TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
CONTEXT_BYTES: Final = TRACE_ID_BYTES + SPAN_ID_BYTES + 1
SAMPLED: Final = 0x01
_NO_SPAN: Final = bytes(SPAN_ID_BYTES)
_SAMPLED_FLAGS: Final = bytes([SAMPLED])

#: Spans that wait for the exporter's thread; more are dropped and counted.
MAX_WAITING_SPANS: Final = 4096
#: Copies of one message whose way is followed: a trace is an example, not an account.
MAX_TRACED_COPIES: Final = 16
#: Traces per second that publishers may ask for with a ``traceparent``; beyond them the ratio
#: decides, so that no client can make the broker trace everything.
MAX_CONTINUED_PER_S: Final = 100
#: Topics and client identifiers are cut to this many characters in attributes.
MAX_TEXT: Final = 256
#: Properties that are looked at to find a ``traceparent``.
MAX_PROPERTIES_READ: Final = 64

_USER_PROPERTY: Final = 0x26
_TRACEPARENT: Final = b"\x26\x00\x0btraceparent"
_TRACEPARENT_VALUE: Final = re.compile(
    rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)


# The context


def encode(trace_id: bytes, span_id: bytes, flags: int = SAMPLED) -> bytes:
    """Return the 25 bytes of a context. Raises ValueError when an identifier has a wrong size."""
    if len(trace_id) != TRACE_ID_BYTES or len(span_id) != SPAN_ID_BYTES:
        raise ValueError("a trace identifier has 16 bytes, a span identifier 8")
    return trace_id + span_id + bytes([flags])


def decode(context: bytes) -> tuple[bytes, bytes, int]:
    """Return trace identifier, span identifier and flags. Raises ValueError for other sizes."""
    if len(context) != CONTEXT_BYTES:
        raise ValueError("a context has 25 bytes")
    return (
        context[:TRACE_ID_BYTES],
        context[TRACE_ID_BYTES : TRACE_ID_BYTES + SPAN_ID_BYTES],
        context[-1],
    )


def from_properties(properties: bytes) -> bytes | None:
    """Return the context of the user property ``traceparent`` (W3C Trace Context), if it is there.

    ``properties`` as in ``Publish.properties``. None when there is none, or it is not valid.
    """
    if _TRACEPARENT not in properties:
        return None
    at, end = 0, len(properties)
    for _ in range(MAX_PROPERTIES_READ):
        if at >= end:
            break
        if properties.startswith(_TRACEPARENT, at):
            at += len(_TRACEPARENT)
            length = int.from_bytes(properties[at : at + 2])
            return _parse_traceparent(properties[at + 2 : at + 2 + length])
        at = _next_property(properties, at)
    return None


def _next_property(properties: bytes, at: int) -> int:
    """Where the property after the one at ``at`` begins; the decoder has checked them all."""
    kind = properties[at]
    at += 1
    if kind == 0x01:  # payload format indicator
        return at + 1
    at += 2 + int.from_bytes(properties[at : at + 2])
    if kind == _USER_PROPERTY:
        at += 2 + int.from_bytes(properties[at : at + 2])
    return at


def _parse_traceparent(value: bytes) -> bytes | None:
    match = _TRACEPARENT_VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    # The other flags are not defined in this version of the standard.
    sampled = int(flags, 16) & SAMPLED
    return encode(bytes.fromhex(trace_id.decode()), bytes.fromhex(span_id.decode()), sampled)


# Spans


class Span:
    """One hop of a trace. ``context`` is what children are started with."""

    __slots__ = (
        "_tracer",
        "attributes",
        "context",
        "end_ns",
        "failed",
        "name",
        "parent",
        "start_ns",
    )

    def __init__(
        self, tracer: Tracer, name: str, parent: bytes, context: bytes, start_ns: int
    ) -> None:
        self._tracer = tracer
        self.name = name
        self.parent = parent
        self.context = context
        self.start_ns = start_ns
        self.end_ns = 0
        self.failed = False
        self.attributes: Attributes = {}

    @property
    def is_root(self) -> bool:
        """Whether it has no parent."""
        return self.parent[TRACE_ID_BYTES:-1] == _NO_SPAN

    def end(self, attributes: Attributes, failed: bool = False) -> None:
        """Finish it now and leave it to the exporter."""
        self.attributes = attributes
        self.failed = failed
        self.end_ns = time.time_ns()
        self._tracer.take(self)


class Tracer:
    """Decides which publishes are traced, makes spans, and keeps those that have ended.

    Belongs to one event loop; only ``spans`` is also used by the exporter's thread.
    """

    __slots__ = (
        "_allowance",
        "_allowance_at_s",
        "_log_of_rest",
        "_random",
        "_skip",
        "dropped",
        "spans",
    )

    def __init__(self, ratio: float, seed: int | None = None) -> None:
        """``ratio`` is the share of publishes to trace, above 0 and up to 1."""
        self._random = random.Random(seed)  # noqa: S311 - identifiers, no secrets
        self._log_of_rest = math.log1p(-ratio) if ratio < 1 else 0.0
        #: Publishes until the next one that is traced, itself included.
        self._skip = self._gap()
        self._allowance = float(MAX_CONTINUED_PER_S)
        self._allowance_at_s = time.monotonic()
        self.spans: deque[Span] = deque()
        #: Spans thrown away because too many waited.
        self.dropped = 0

    def sample(self, properties: bytes = b"") -> bytes:
        """Return the parent to start a trace with, or b"" when this publish is not traced.

        A valid ``traceparent`` among the ``properties`` decides by its flag; otherwise chance does.
        """
        context = None
        if properties and (context := from_properties(properties)) is not None:
            if not context[-1] & SAMPLED:
                return b""
            if self._may_continue():
                return context
        # The gaps between independent draws are drawn instead: one subtraction per publish.
        self._skip -= 1
        if self._skip:
            return b""
        self._skip = self._gap()
        if context is not None:
            return context
        return self._identifier(TRACE_ID_BYTES) + _NO_SPAN + _SAMPLED_FLAGS

    def start(self, name: str, parent: bytes, start_ns: int = 0) -> Span:
        """Begin a span now, or at ``start_ns`` (Unix time); ``parent`` is a context."""
        context = parent[:TRACE_ID_BYTES] + self._identifier(SPAN_ID_BYTES) + parent[-1:]
        return Span(self, name, parent, context, start_ns or time.time_ns())

    def take(self, span: Span) -> None:
        """Keep a span that has ended until it is exported."""
        if len(self.spans) < MAX_WAITING_SPANS:
            self.spans.append(span)
        else:
            self.dropped += 1

    def _gap(self) -> int:
        """How many publishes until the next traced one: geometric, at least 1."""
        if not self._log_of_rest:
            return 1
        return 1 + int(math.log(1.0 - self._random.random()) / self._log_of_rest)

    def _may_continue(self) -> bool:
        now_s = time.monotonic()
        earned = (now_s - self._allowance_at_s) * MAX_CONTINUED_PER_S
        self._allowance_at_s = now_s
        self._allowance = min(self._allowance + earned, MAX_CONTINUED_PER_S)
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _identifier(self, size_bytes: int) -> bytes:
        # Zero is no identifier.
        return (self._random.getrandbits(8 * size_bytes) or 1).to_bytes(size_bytes)


def message_attributes(message: Publish, client_id: str) -> Attributes:
    """Return the attributes of a message and of the one client at this hop ("": several).

    Never the payload.
    """
    attributes: Attributes = {
        "messaging.destination.name": message.topic[:MAX_TEXT],
        "messaging.message.body.size": len(message.payload),
        "tidegate.qos": message.qos,
    }
    if client_id:
        attributes["messaging.client.id"] = parts_of(client_id)[1][:MAX_TEXT]
    return attributes
