"""Bans in the store: added, listed and deleted by the console, read by routers.

A hash of all bans, and a word that is another one after each change, so that routers read the bans
only when there is something new. ``redis_store`` hands its methods out; who routes nothing makes a
``BanStore`` of its own connections.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from tidegate.bans.ban import Ban
from tidegate.store import operations as op
from tidegate.store.keys import BANS_KEY, BANS_VERSION_KEY, GLOBAL_PREFIX

if TYPE_CHECKING:
    from tidegate.store.partitions import Partitions, Words

#: Bans that there may be at the same time: every edge has all of them.
MAX_BANS: Final = 10_000
#: Bans that one step of a scan reads.
_PAGE: Final = 500


class TooManyBans(Exception):
    """There are ``MAX_BANS`` already."""


class BanStore:
    """See the module's docstring. Every method may raise StoreUnavailable."""

    __slots__ = ("_bulk", "_partitions")

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        self._bulk = partitions.bulk

    async def version(self) -> bytes:
        """What changes with every change of bans."""
        return await self._partitions.command(b"GET", BANS_VERSION_KEY) or b""

    async def stored(self) -> list[bytes]:
        """Every ban, as it is stored."""
        found: dict[bytes, bytes] = {}

        async def page(_prefix: bytes, cursor: bytes) -> tuple[bytes, list[Any]]:
            words: Words = [op.COMMAND, 5, b"HSCAN", BANS_KEY, cursor, b"COUNT", _PAGE]
            after, items = await self._bulk.submit(GLOBAL_PREFIX, words, 300 * _PAGE)
            return after, items

        async for items in self._partitions.scan(GLOBAL_PREFIX, page):
            found |= zip(items[::2], items[1::2], strict=True)
        return list(found.values())

    async def list(self, now: float, after: str = "", limit: int = 100) -> tuple[list[Ban], str]:
        """Bans that are in force, the newest first, after the one with an identifier.

        And where to read on, "": there are no more.
        """
        bans = [ban for stored in await self.stored() if (ban := Ban.decode(stored)) is not None]
        bans = sorted(
            (ban for ban in bans if not ban.is_over(now)),
            key=lambda ban: (ban.at, ban.id),
            reverse=True,
        )
        first = next((n + 1 for n, ban in enumerate(bans) if ban.id == after), 0) if after else 0
        page = bans[first : first + limit]
        return page, page[-1].id if first + limit < len(bans) else ""

    async def add(self, ban: Ban) -> None:
        """Add a ban, or replace the one of the same client, user or address. Raises TooManyBans."""
        count, known = await self._partitions.command(b"HLEN", BANS_KEY), None
        if count >= MAX_BANS:
            known = await self._partitions.command(b"HGET", BANS_KEY, ban.id)
            if known is None:
                raise TooManyBans(f"there are {MAX_BANS:,} bans already: delete some")
        await self._partitions.command(b"HSET", BANS_KEY, ban.id, ban.encode())
        await self._changed()

    async def delete(self, ban_id: str) -> bool:
        """Delete a ban; False: there is none with this identifier."""
        deleted = await self._partitions.command(b"HDEL", BANS_KEY, ban_id)
        if deleted:
            await self._changed()
        return bool(deleted)

    async def delete_ended(self, now: float) -> None:
        """Delete bans that have ended. They ban nobody, so there is no new version of the rest."""
        for stored in await self.stored():
            ban = Ban.decode(stored)
            if ban is not None and ban.is_over(now):
                await self._partitions.command(b"HDEL", BANS_KEY, ban.id)

    async def _changed(self) -> None:
        await self._partitions.command(b"SET", BANS_VERSION_KEY, secrets.token_hex(8))
