"""What the routes work with, made once by ``roles.console`` and found through the request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tidegate.console.auth.audit import Audit
from tidegate.console.auth.authority import Authority
from tidegate.console.broker.deletions import Deletions
from tidegate.console.figures import Figures
from tidegate.console.nodes.pool import Nodes
from tidegate.console.store_health import StoreHealth
from tidegate.console.store_link import StoreLink
from tidegate.runtime.admin.control import Readiness
from tidegate.runtime.config.model import Config
from tidegate.runtime.telemetry.counters import Counters


@dataclass(slots=True, frozen=True)
class Parts:
    """The rooms of one console."""

    config: Callable[[], Config]
    nodes: Nodes
    store: StoreLink
    authority: Authority
    audit: Audit
    deletions: Deletions
    figures: Figures
    store_health: StoreHealth
    counters: Counters
    readiness: Callable[[], Readiness]
    metrics: Callable[[], bytes]


def parts_of(request: Request) -> Parts:
    """Return the parts of the application that serves a request."""
    parts: Parts = request.app.state.parts
    return parts


#: Parameter of a route that needs them.
PartsOf = Annotated[Parts, Depends(parts_of)]
