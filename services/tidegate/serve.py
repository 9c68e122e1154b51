"""All in one: an edge, a router and the store in one process, joined directly.

The composition root of ``tidegate serve``. Builds the objects, wires them, starts them in order,
says ``tidegate ready`` when everything accepts, and takes them down in the opposite order. The same
edge and router run apart in a cluster; there is no second way of keeping state.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tidegate import __version__
from tidegate.core.sys_topics import SysTree
from tidegate.edge.authn import Authenticator
from tidegate.edge.authz import Authorizer
from tidegate.edge.edge import Edge
from tidegate.edge.listeners import Listeners
from tidegate.link.api import RouterUnavailable
from tidegate.router.router import Router
from tidegate.router.system import SysPublisher
from tidegate.runtime import log as logs
from tidegate.runtime import loop as loops
from tidegate.runtime.admin import AdminServer
from tidegate.runtime.config import Config
from tidegate.runtime.metrics import render_metrics
from tidegate.runtime.shutdown import Shutdown
from tidegate.runtime.telemetry import Counters, watch_event_loop_lag
from tidegate.store.api import StoreUnavailable
from tidegate.store.embedded import EmbeddedValkey
from tidegate.store.redis_store import RedisStore

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 2.5


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
