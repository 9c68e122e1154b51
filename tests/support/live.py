"""A running broker whose configuration file is changed: what is written, and what it says of it."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import signal
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from support.broker import Address, Server, Settings
from support.raw_client import DEADLINE_S
from support.waiting import wait_for_async


def digest_of(content: bytes) -> str:
    """What a process says of a file that it uses."""
    return hashlib.sha256(content).hexdigest()[:16]


class Live:
    """One process; ``settings`` is what its file says, to be changed and written again."""

    def __init__(self, server: Server, settings: Settings, file: Path | None = None) -> None:
        self.server = server
        self.settings = copy.deepcopy(settings)
        self.file = file or server.directory / "tidegate.yaml"
        #: Without a signal the file is noticed by looking, in about two seconds.
        self.signals = True

    def listener(self, name: str) -> Settings:
        """The settings of a listener, to be changed in place."""
        listeners: list[Settings] = self.settings["listeners"]
        return next(one for one in listeners if one["name"] == name)

    def write(self, content: str | None = None) -> str:
        """Replace the file in one step; return the digest of what it has now."""
        text = yaml.safe_dump(self.settings, sort_keys=False) if content is None else content
        other = self.file.with_suffix(".new")
        other.write_text(text)
        other.replace(self.file)
        if self.signals:
            os.kill(self.server.pid, signal.SIGHUP)
        return digest_of(text.encode())

    async def take(self, content: str | None = None) -> None:
        """Write the settings, and wait until the process uses them."""
        digest = self.write(content)
        await self.until(
            lambda said: (said["digest"], said["problem"]) == (digest, ""), "it is in use"
        )

    async def refuse(self, content: str | None = None) -> str:
        """Write what cannot be used; return what the process says of it."""
        before = self.configuration()["problem"]
        self.write(content)
        said = await self.until(
            lambda said: said["problem"] and said["problem"] != before, "it is refused"
        )
        problem: str = said["problem"]
        return problem

    async def until(self, condition: Any, what: str) -> dict[str, Any]:
        """Wait until what /status says of the configuration is as ``condition`` wants it."""
        found: dict[str, Any] = {}

        def look() -> bool:
            nonlocal found
            found = self.configuration()
            return bool(condition(found))

        try:
            await wait_for_async(look, DEADLINE_S, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {found}") from None
        return found

    def configuration(self) -> dict[str, Any]:
        """What /status says of the configuration."""
        found: dict[str, Any] = self.status()["configuration"]
        return found

    def status(self) -> dict[str, Any]:
        """What /status says."""
        found: dict[str, Any] = json.loads(self._get("/status"))
        return found

    def address(self, name: str) -> Address:
        """Where a listener is now."""
        (place,) = self.status()["listeners"][name]
        return Address.parse(f"tcp://{place}")

    def metric(self, name: str) -> float:
        """One value of /metrics."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self._get("/metrics"), re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def _get(self, path: str) -> str:
        place = self.server.address("admin")
        url = f"http://{place.host}:{place.port}{path}"
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            text: str = answer.read().decode()
            return text
