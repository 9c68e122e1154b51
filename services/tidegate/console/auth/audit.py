"""The audit: every change that somebody makes with the console, in the log and in the store.

Routes call ``note`` when it is done (or refused by what was to do it). While the store is away the
last entries are kept here and written later; the log has them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from tidegate.console.auth.authority import address_of
from tidegate.console.caller import Caller
from tidegate.store.api import StoreUnavailable
from tidegate.store.inspection.access import StoreAccess
from tidegate.store.keys import GLOBAL_PREFIX

log = logging.getLogger(__name__)

#: Stream: one entry for each change, the field ``e`` as JSON.
AUDIT_KEY: Final = GLOBAL_PREFIX + b"console-audit"
#: Entries that are kept, about.
MAX_ENTRIES: Final = 10_000
#: Entries that wait for the store.
MAX_WAITING: Final = 1000
_MAX_TEXT: Final = 1024
#: How long a change waits for its entry to be stored.
WAIT_S: Final = 1.0
#: Between two attempts to store what waits.
FLUSH_S: Final = 2.0


@dataclass(slots=True, frozen=True)
class Entry:
    """One change. ``at`` in seconds since 1970."""

    id: str
    at: float
    user: str
    role: str
    action: str
    target: str
    outcome: str
    address: str
    detail: Mapping[str, Any]


class Audit:
    """See the module's docstring."""

    def __init__(self, access: Callable[[], StoreAccess]) -> None:
        """``access`` raises StoreUnavailable."""
        self._access = access
        self._waiting: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Write again and again what waits, until it is written."""
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._waiting:
                with contextlib.suppress(StoreUnavailable):
                    await self.flush()

    async def note(
        self,
        request: Request,
        action: str,
        target: str = "",
        *,
        detail: Mapping[str, Any] | None = None,
        outcome: str = "done",
        user: str | None = None,
    ) -> None:
        """Record a change that the caller of this request has made, or tried (``outcome``).

        ``detail`` must be plain data, without payloads and secrets. ``user``: who it is when nobody
        is logged in.
        """
        caller: Caller | None = getattr(request.state, "caller", None)
        who = caller.name if caller is not None and user is None else user or ""
        fields: dict[str, Any] = {
            "at": round(time.time(), 3),
            "user": who[:_MAX_TEXT],
            "role": caller.role.value if caller is not None else "",
            "action": action,
            "target": target[:_MAX_TEXT],
            "outcome": outcome[:_MAX_TEXT],
            "address": address_of(request),
            "detail": dict(detail or {}),
        }
        log.info("console change", extra={key: value for key, value in fields.items() if value})
        self._waiting.append(json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace"))
        try:
            async with asyncio.timeout(WAIT_S):
                await self.flush()
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("audit not stored yet", extra={"reason": str(error) or "timeout"})

    async def flush(self) -> None:
        """Write what waits. Raises StoreUnavailable."""
        async with self._writing:
            while self._waiting:
                raw = self._waiting[0]
                await self._access().command(
                    GLOBAL_PREFIX,
                    *(b"XADD", AUDIT_KEY, b"MAXLEN", b"~", str(MAX_ENTRIES).encode(), b"*"),
                    *(b"e", raw),
                )
                if self._waiting and self._waiting[0] is raw:
                    self._waiting.popleft()

    async def read(self, before: str, limit: int) -> list[Entry]:
        """Return entries, the newest first, older than the one with this identifier.

        Raises StoreUnavailable.
        """
        start = f"({before}" if before else "+"
        found = await self._access().read(
            GLOBAL_PREFIX, b"XREVRANGE", AUDIT_KEY, start.encode(), b"-", b"COUNT", limit
        )
        return [entry for raw in found if (entry := _entry(raw)) is not None]


def _entry(raw: Any) -> Entry | None:
    identifier, (_, value) = raw
    try:
        fields = json.loads(value)
        return Entry(id=identifier.decode(), **fields)
    except (ValueError, TypeError):
        return None
