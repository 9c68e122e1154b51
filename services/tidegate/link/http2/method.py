"""A method of a gRPC service, as ``server`` has its calls served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tidegate.link.http2.stream import Stream


@dataclass(slots=True, frozen=True)
class Method:
    """How calls of one method are served."""

    parse: Callable[[bytes | memoryview], Any]
    serve: Callable[[Stream[Any, Any]], Awaitable[None]]
    #: The longest message that is accepted.
    limit_bytes: int
