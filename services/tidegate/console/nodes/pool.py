"""All edges and routers of the configuration, found again and again, asked at once.

Made by ``roles.console``. Owns the clients, one for each address; an address that a host name no
longer has loses its client.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tidegate.console.nodes.client import TIMEOUT_S, UNIX, Json, NodeClient, NodeError

#: How long the addresses of a host name are used.
LOOKUP_S: Final = 5.0


@dataclass(slots=True, frozen=True)
class Answer:
    """What one node has answered."""

    node: NodeClient
    status: int
    body: Json

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return self.status < 400


@dataclass(slots=True)
class Answers:
    """What all have answered, and which have not: `edge-1: timeout`."""

    answers: list[Answer] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def good(self) -> list[Answer]:
        """The answers that are no errors."""
        return [answer for answer in self.answers if answer.ok]


class Nodes:
    """See the module's docstring. ``close`` it."""

    def __init__(
        self, edges: Sequence[str], routers: Sequence[str], token_file: Path | None
    ) -> None:
        self._settings = {"edge": list(edges), "router": list(routers)}
        self._token_file = token_file
        self._clients: dict[tuple[str, str], NodeClient] = {}
        self._found: dict[str, list[NodeClient]] = {}
        self._unresolved: dict[str, list[str]] = {"edge": [], "router": []}
        self._looked_up_s = -LOOKUP_S
        self._lookup = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    async def edges(self) -> list[NodeClient]:
        """Return the edges."""
        return await self._of("edge")

    async def routers(self) -> list[NodeClient]:
        """Return the routers; none if every edge has one in its process."""
        return await self._of("router")

    async def all(self) -> list[NodeClient]:
        """Return the edges, then the routers."""
        return [*await self._of("edge"), *await self._of("router")]

    async def ask_edges(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answers:
        """Send a request to all edges at once."""
        found = await self.ask(
            await self.edges(), method, path, params=params, body=body, timeout_s=timeout_s
        )
        found.missing += self._unresolved["edge"]
        return found

    async def ask_all(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None
    ) -> Answers:
        """Send a request to all edges and routers at once."""
        found = await self.ask(await self.all(), method, path, params=params)
        found.missing += self._unresolved["edge"] + self._unresolved["router"]
        return found

    async def ask(
        self,
        nodes: Sequence[NodeClient],
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Answers:
        """Send a request to some nodes at once."""
        results = await asyncio.gather(
            *(
                node.ask_json(method, path, params=params, body=body, timeout_s=timeout_s)
                for node in nodes
            ),
            return_exceptions=True,
        )
        found = Answers()
        for node, result in zip(nodes, results, strict=True):
            if isinstance(result, NodeError):
                found.missing.append(f"{node.name}: {result}")
            elif isinstance(result, BaseException):
                raise result
            else:
                status, answer = result
                if path == "/status" and isinstance(answer.get("name"), str):
                    node.name = answer["name"]
                found.answers.append(Answer(node, status, answer))
        return found

    async def named(self, name: str) -> NodeClient | None:
        """Return the node with a name, None if none says that it has it."""
        nodes = await self.all()
        if not any(node.name == name for node in nodes):
            await self.ask(nodes, "GET", "/status")
        return next((node for node in nodes if node.name == name), None)

    # Addresses

    async def _of(self, role: str) -> list[NodeClient]:
        async with self._lookup:
            if time.monotonic() - self._looked_up_s >= LOOKUP_S:
                await self._look_up()
                self._looked_up_s = time.monotonic()
        return self._found[role]

    async def _look_up(self) -> None:
        used: dict[tuple[str, str], NodeClient] = {}
        for role, settings in self._settings.items():
            addresses: list[str] = []
            self._unresolved[role] = []
            for setting, found in zip(
                settings, await asyncio.gather(*map(_addresses, settings)), strict=True
            ):
                addresses += found
                if not found:
                    self._unresolved[role].append(f"{setting}: no address found")
            for address in dict.fromkeys(addresses):
                key = role, address
                client = self._clients.get(key) or NodeClient(address, self._token_file)
                used[key] = client
        gone = [client for key, client in self._clients.items() if key not in used]
        self._clients = used
        self._found = {
            role: [client for (of, _), client in used.items() if of == role]
            for role in self._settings
        }
        await asyncio.gather(*(client.close() for client in gone))


async def _addresses(setting: str) -> list[str]:
    """Return all addresses that a setting stands for; none when its name is not found."""
    if setting.startswith(UNIX):
        return [setting]
    host, _, port = setting.rpartition(":")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError):
        return []
    hosts = sorted({str(sockaddr[0]) for *_, sockaddr in found})
    if host == "localhost":
        # Both families of the same machine are one process.
        hosts = hosts[:1]
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
