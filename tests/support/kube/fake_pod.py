"""One pod without containers: what is mounted into it, and what its admin port says.

Owned by ``fake_kubelet``. What a process reports of its configuration is told from the files that
are mounted, as a process that takes up everything at once would.
"""

from __future__ import annotations

import asyncio
import hashlib
import http
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

import yaml

from support.closing import close_server
from support.kube.api import Object
from tidegate.runtime.config.model import Config
from tidegate.runtime.config.reloadable import restart_needed
from tidegate_operator import names

Files = Mapping[str, bytes]
#: Returns what a ConfigMap or Secret of a namespace holds, None if there is none.
Read = Callable[[str, str, str], Files | None]

#: unready: runs and is not ready; crashing: its container ends again and again; unstarted: it is
#: bound to no node; silent: ready, and nothing answers on its admin port.
Fault = Literal["unready", "crashing", "unstarted", "silent"]

_CONFIG_FILE: Final = f"{names.CONFIG_DIR}/{names.CONFIG_FILE}"
_MAX_REQUEST_BYTES: Final = 16_384


@dataclass(slots=True)
class FakePod:
    """See the module's docstring. ``problem`` is what it says is wrong with its configuration."""

    namespace: str
    name: str
    spec: Object
    labels: Mapping[str, str]
    address: str = ""
    clients: int = 0
    problem: str = ""
    #: By mount path: what the pod sees.
    mounted: dict[str, Files] = field(default_factory=dict)
    #: What the configuration was when the process began.
    _began_with: Config | None = None
    _server: asyncio.Server | None = None
    _answering: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def has_admin_port(self) -> bool:
        """Whether anything is to be served."""
        return any(
            port.get("containerPort") == names.ADMIN_PORT
            for container in self.spec["containers"]
            for port in container.get("ports") or []
        )

    def mount(self, read: Read) -> str:
        """Look at what is to be mounted; return what is missing, "" if all of it is there."""
        found: dict[str, Files] = {}
        for kind, name, path in self._sources():
            content = read(kind, self.namespace, name)
            if content is None:
                return f'{kind.lower()} "{name}" not found'
            found[path] = content
        self.mounted = found
        if self._began_with is None:
            self._began_with = self._config()
        return ""

    def _sources(self) -> Iterator[tuple[str, str, str]]:
        paths = {
            mount["name"]: mount["mountPath"]
            for container in self.spec["containers"]
            for mount in container.get("volumeMounts") or []
        }
        for volume in self.spec.get("volumes") or []:
            if volume["name"] not in paths:
                continue
            if "configMap" in volume:
                yield "ConfigMap", volume["configMap"]["name"], paths[volume["name"]]
            elif "secret" in volume:
                yield "Secret", volume["secret"]["secretName"], paths[volume["name"]]

    def claims(self) -> Iterator[str]:
        """Yield the volume claims that have to be bound first."""
        for volume in self.spec.get("volumes") or []:
            if "persistentVolumeClaim" in volume:
                yield volume["persistentVolumeClaim"]["claimName"]

    # What it says

    async def serve(self) -> None:
        """Answer on the admin port. Raises OSError if the address is taken."""
        if self._server is None and self.has_admin_port:
            # Cancelled after the socket is bound, it must be known, so that it is closed.
            self._server = await asyncio.start_server(
                self._answer, self.address, names.ADMIN_PORT, start_serving=False
            )
            await self._server.start_serving()

    async def close(self) -> None:
        """Stop answering; who waits for an answer gets none."""
        server, self._server = self._server, None
        if server is not None:
            await close_server(server)
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.decode("latin-1").partition("\r\n")
            path, _, query = line.split(" ")[1].partition("?")
            status, body = self._page(path, query, rest)
            text = json.dumps(body).encode()
            writer.write(
                f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode()
                + text
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, LookupError):
            pass
        except asyncio.CancelledError:
            # By ``close`` alone. Some versions of asyncio call a task that ends so an error.
            pass
        finally:
            self._answering.discard(task)
            writer.close()

    def _store_report(self) -> Object:
        """What the member beside a store's server says: the first one is the primary."""
        settings = self.mounted[names.CONFIG_DIR][names.STORE_MEMBER_FILE]
        members = json.loads(settings)["members"]
        host = members[int(self.name.rpartition("-")[2])]
        others = len(members) - 1
        return {
            "host": host,
            "primary": members[0],
            "role": "primary" if host == members[0] else "replica",
            "link_up": True,
            "in_sync": others if host == members[0] else 0,
            "replicas": others,
        }

    def _page(self, path: str, query: str, headers: str) -> tuple[http.HTTPStatus, Object]:
        if path == "/store":
            return http.HTTPStatus.OK, self._store_report()
        if path not in {"/status", "/shed"}:
            return http.HTTPStatus.OK, {}
        token = self._file(f"{names.FILES_DIR}/admin-token") or b""
        if f"bearer {token.decode().strip()}".lower() not in headers.lower():
            return http.HTTPStatus.UNAUTHORIZED, {"error": "the token is not known"}
        if path == "/shed":
            return http.HTTPStatus.ACCEPTED, {"shedding": int(query.removeprefix("connections="))}
        return http.HTTPStatus.OK, {"clients": self.clients, "configuration": self.configuration()}

    def configuration(self) -> Object:
        """Return what a process says of its configuration."""
        running, wanted = self._began_with, self._config()
        role = cast("Literal['edge', 'router']", self.labels.get(names.COMPONENT_LABEL, "edge"))
        needed: list[str] = []
        if running is not None and wanted is not None:
            needed = restart_needed(running, wanted, role)
        files = {}
        for path in sorted(set(_paths(self._plain()))):
            content = self._file(path)
            problem = "" if content is not None else f"{path} cannot be read"
            files[path] = {"digest": _digest(content), "problem": problem}
        return {
            "digest": _digest(self._file(_CONFIG_FILE)),
            "problem": self.problem,
            "restart_needed": needed,
            "files": files,
        }

    def _file(self, path: str) -> bytes | None:
        directory, _, name = path.rpartition("/")
        return self.mounted.get(directory, {}).get(name)

    def _plain(self) -> Any:
        return yaml.safe_load(self._file(_CONFIG_FILE) or b"null")

    def _config(self) -> Config | None:
        plain = self._plain()
        return None if plain is None else Config.model_validate(plain)


def _paths(value: object) -> Iterator[str]:
    """Yield every file that a configuration names."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from _paths(one)
    elif isinstance(value, list):
        for one in value:
            yield from _paths(one)
    elif isinstance(value, str) and value.startswith(f"{names.FILES_DIR}/"):
        yield value


def _digest(content: bytes | None) -> str:
    return "" if content is None else hashlib.sha256(content).hexdigest()[:16]
