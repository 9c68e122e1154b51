"""The process of a member: it runs Sentinel, and acts on the files by which the server's container
starts and stops.

The server's container runs whatever image ``redis.bundled.image`` names, with a shell and nothing
else: its script makes the file ``starting`` and waits for ``server.conf``; before it ends, it makes
``stopping`` and waits for ``may-stop``. Both containers share that directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tidegate_operator.names import ADMIN_PORT, REDIS_PORT, SENTINEL_PORT, STORE_NAME
from tidegate_operator.store_member import decision
from tidegate_operator.store_member.admin import serve
from tidegate_operator.store_member.decision import Start, View
from tidegate_operator.store_member.report import Report, report
from tidegate_operator.store_member.resp import Peer, ReplyError, pairs

log = logging.getLogger(__name__)

#: Files of the shared directory.
STARTING: Final = "starting"
SERVER_FILE: Final = "server.conf"
STOPPING: Final = "stopping"
MAY_STOP: Final = "may-stop"
#: What Sentinel remembers, on the volume.
SENTINEL_FILE: Final = "sentinel.conf"

#: How often the directory is looked into, and how often servers are asked.
_LOOK_S: Final = 0.1
_ASK_S: Final = 1.0
#: How long a primary tries to hand over before it stops without.
HAND_OVER_S: Final = 15.0
#: How often Sentinel looks for its server, before it ends without waiting for that.
_OUTLIVE_LOOKS: Final = 60
#: ``replica-priority``: the lower, the rather promoted.
_USUAL_PRIORITY: Final = "100"
_WANTED_PRIORITY: Final = "1"
_GONE: Final = (OSError, TimeoutError, ReplyError)


@dataclass(slots=True, frozen=True)
class Settings:
    """Where everything is. ``bind``: an address to listen on, "" for all."""

    own: str
    members: tuple[str, ...]
    config: Path
    password: bytes
    data: Path
    run: Path
    member_file: Path
    program: str = "valkey-server"
    bind: str = ""


class Member:
    """See the module's docstring."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = Peer(settings.own, REDIS_PORT, settings.password)
        self._sentinel = Peer(settings.own, SENTINEL_PORT, settings.password)
        self._others = [host for host in settings.members if host != settings.own]
        self._child: asyncio.subprocess.Process | None = None
        self._report = Report(settings.own)
        self._waits = ""
        self._priority = _USUAL_PRIORITY
        self._is_known = False
        self._replied_s = time.monotonic()
        self._ended = asyncio.Event()

    async def run(self) -> int:
        """Run until SIGTERM, or until Sentinel ends; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ended.set)
        self._child = await self._start_sentinel()
        server = await serve(
            self._settings.bind, ADMIN_PORT, lambda: self._report, lambda: self._is_alive
        )
        tasks = [
            loop.create_task(one())
            for one in (self._start_servers, self._stop_servers, self._observe, self._watch)
        ]
        ended = loop.create_task(self._ended.wait())
        done, _ = await asyncio.wait([ended, *tasks], return_when=asyncio.FIRST_COMPLETED)
        try:
            if ended in done:
                await self._outlive_server()
                return 0
            for task in done:
                task.result()
            return 1
        finally:
            for task in (ended, *tasks):
                task.cancel()
            server.close()
            await self._stop_sentinel()

    # Sentinel

    @property
    def _is_alive(self) -> bool:
        return self._child is not None and self._child.returncode is None

    async def _start_sentinel(self) -> asyncio.subprocess.Process:
        settings = self._settings
        file = settings.data / SENTINEL_FILE
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        primary = decision.primary(await self._views(), settings.members)
        text = decision.sentinel_file(
            before, settings.own, primary, str(settings.data), settings.bind
        )
        _write(file, decision.with_password(text, settings.password.decode()))
        log.info("Sentinel starts; primary: %s", primary)
        return await asyncio.create_subprocess_exec(settings.program, str(file), "--sentinel")

    async def _stop_sentinel(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.terminate()
            await self._child.wait()

    async def _watch(self) -> None:
        assert self._child is not None
        code = await self._child.wait()
        log.error("Sentinel has ended with exit code %s", code)

    async def _views(self) -> list[View]:
        """Return who is the primary, as the Sentinels say: the others, and this pod's own file."""
        found = await asyncio.gather(*(self._view(host) for host in self._others))
        file = self._settings.data / SENTINEL_FILE
        own = decision.remembered_view(file.read_text(encoding="utf-8")) if file.exists() else None
        return [view for view in (*found, own) if view is not None]

    async def _view(self, host: str) -> View | None:
        peer = Peer(host, SENTINEL_PORT, self._settings.password)
        try:
            facts = await peer.facts("SENTINEL", "MASTER", STORE_NAME)
            return View(int(facts["config-epoch"]), facts["ip"])
        except (*_GONE, KeyError, ValueError):
            return None

    # Start

    async def _start_servers(self) -> None:
        """Answer each start of the server's container with a configuration."""
        run = self._settings.run
        while True:
            if (run / STARTING).exists():
                found = await self._decide()
                self._waits = found.waits
                if not found.waits:
                    (run / STARTING).unlink(missing_ok=True)
                    self._write_server_file(found)
            await asyncio.sleep(_LOOK_S if not self._waits else _ASK_S)

    async def _decide(self) -> Start:
        settings = self._settings
        primary = decision.primary(await self._views(), settings.members)
        keys = await asyncio.gather(*(self._keys(host) for host in self._others))
        found = decision.start(
            settings.own,
            primary,
            has_data=_has_data(settings.data),
            keys=[count for count in keys if count is not None],
        )
        if found.waits and found.waits != self._waits:
            log.warning("server is not started: %s", found.waits)
        return found

    def _write_server_file(self, found: Start) -> None:
        settings = self._settings
        password = settings.password.decode()
        text = decision.server_file(
            str(settings.config), settings.own, password, found, settings.bind
        )
        log.info("server starts as %s", f"replica of {found.follow}" if found.follow else "primary")
        _write(settings.run / SERVER_FILE, text)

    async def _keys(self, host: str) -> int | None:
        try:
            count = await Peer(host, REDIS_PORT, self._settings.password).call("DBSIZE")
        except _GONE:
            return None
        return count if isinstance(count, int) else None

    # Stop

    async def _stop_servers(self) -> None:
        """Hand over before the server's container ends."""
        run = self._settings.run
        while True:
            if (run / STOPPING).exists() and not (run / MAY_STOP).exists():
                await self._hand_over()
                _write(run / MAY_STOP, "")
            await asyncio.sleep(_LOOK_S)

    async def _hand_over(self) -> None:
        """Have a replica that has everything promoted, if this is the primary.

        Another pod's Sentinel does it: this one's may end before its failover does.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                while not await self._is_replaced():
                    for host in self._others:
                        if await self._fail_over(host):
                            break
                    await asyncio.sleep(_LOOK_S)
                return
        log.warning("no replica has taken over: Sentinel will promote one once this server is gone")

    async def _is_replaced(self) -> bool:
        """Whether another server is the primary and a Sentinel says so, or none can be."""
        await self._refresh()
        if self._report.role != "primary":
            views = await asyncio.gather(*(self._view(host) for host in self._others))
            known = [view for view in views if view is not None]
            return any(view.primary != self._settings.own for view in known) or not known
        return not self._report.in_sync

    async def _fail_over(self, host: str) -> bool:
        """Request a failover that waits until the replica has everything; return if it begins."""
        peer = Peer(host, SENTINEL_PORT, self._settings.password)
        try:
            await peer.call("SENTINEL", "FAILOVER", STORE_NAME, "COORDINATED")
        except _GONE as error:
            log.debug("failover not possible yet: %s", error)
            return False
        log.info("failover requested from %s", host)
        return True

    async def _outlive_server(self) -> None:
        """Keep Sentinel until the server has ended: it takes part in the failover."""
        await self._hand_over()
        for _ in range(_OUTLIVE_LOOKS):
            if not await self._info():
                return
            await asyncio.sleep(_ASK_S)

    # Report

    async def _observe(self) -> None:
        """Keep the report, and make this server the primary where that is wanted."""
        while True:
            await self._refresh()
            with contextlib.suppress(*_GONE):
                await self._become_primary()
            await asyncio.sleep(_ASK_S)

    async def _refresh(self) -> None:
        info = await self._info()
        try:
            sentinel = await self._sentinel.facts("SENTINEL", "MASTER", STORE_NAME)
        except _GONE:
            sentinel = {}
        now = time.monotonic()
        if info or (self._settings.run / STARTING).exists():
            self._replied_s = now
        found = report(self._settings.own, info, sentinel, self._waits)
        if found.role == "replica" and not self._is_known:
            self._is_known = await self._is_in_view()
        self._report = replace(
            found,
            is_known=found.role == "primary" or self._is_known,
            silent_s=now - self._replied_s,
        )

    async def _is_in_view(self) -> bool:
        """Whether Sentinel has this replica in its view: else it would not be promoted."""
        try:
            return any(one.get("ip") == self._settings.own for one in await self._replicas())
        except _GONE:
            return False

    async def _replicas(self) -> list[dict[str, str]]:
        found = await self._sentinel.call("SENTINEL", "REPLICAS", STORE_NAME)
        return [pairs(one) for one in found] if isinstance(found, list) else []

    async def _info(self) -> dict[str, str]:
        try:
            return await self._server.facts("INFO")
        except _GONE:
            return {}

    async def _become_primary(self) -> None:
        """Do the next step if ``wanted_primary`` of the configuration names this server.

        Sentinel prefers a replica by its priority, as it has read it last.
        """
        found, own = self._report, self._settings.own
        is_wanted = self._wanted_primary() == own and found.role == "replica" and found.link_up
        wanted = _WANTED_PRIORITY if is_wanted else _USUAL_PRIORITY
        if wanted != self._priority and found.role != "starting":
            await self._server.call("CONFIG", "SET", "replica-priority", wanted)
            self._priority = wanted
        if not is_wanted:
            return
        for facts in await self._replicas():
            if facts.get("ip") == own and facts.get("slave-priority") == _WANTED_PRIORITY:
                await self._fail_over(own)

    def _wanted_primary(self) -> str:
        # The kubelet replaces the file when the ConfigMap changes.
        try:
            values = json.loads(self._settings.member_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ""
        return str(values.get("wanted_primary", ""))


def _has_data(directory: Path) -> bool:
    """Whether the server has written something."""
    return any(
        file.stat().st_size for file in directory.glob("appendonlydir/*.aof*") if file.is_file()
    )


def _write(file: Path, text: str) -> None:
    """Replace a file as a whole; it may have a password."""
    new = file.with_name(f".{file.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    new.replace(file)
