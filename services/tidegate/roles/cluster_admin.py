"""The admin API of a supervisor: the admin APIs of its child processes, aggregated.

Built by the supervisor. Every response is collected from all processes at once when it is
requested; one that does not respond is named, and its timeout passes once. Keeps nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from tidegate.core.session_key import session_key
from tidegate.roles.child import ChildError, ChildProcess
from tidegate.roles.process import Process
from tidegate.runtime.admin.control import AmbiguousClient, Control, Json, Readiness
from tidegate.runtime.admin.server import MAX_LIMIT
from tidegate.runtime.telemetry.metrics import merge

#: The supervisor's name in the merged metrics.
OWN_NAME: Final = "supervisor"


class ClusterAdmin:
    """See the module's docstring."""

    def __init__(
        self, process: Process, edges: Sequence[ChildProcess], routers: Sequence[ChildProcess]
    ) -> None:
        self._process = process
        self._edges = edges
        self._routers = routers
        self._children = [*routers, *edges]

    def control(self) -> Control:
        """Return what operators can see and do."""
        return Control(
            self._status,
            self._drain,
            self._progress,
            self._clients,
            self._client,
            self._disconnect,
            self._shed,
            self._shedding,
            self._end_session,
        )

    async def readiness(self) -> Readiness:
        """Ready when all are; otherwise the ones that are not, and why.

        The reason of a process that is ready is in it, too, when it has one.
        """
        ready, reason = self._process.readiness()
        found = await asyncio.gather(*(_readiness_of(child) for child in self._children))
        problems = [text for is_ready, text in found if not is_ready]
        if problems:
            return False, "; ".join(problems)
        return ready, "; ".join([reason, *(text for _, text in found if text)])

    async def metrics(self) -> bytes:
        """Return the metrics of all processes that respond, told apart by a label."""
        texts = {OWN_NAME: self._process.exporter.render().decode()}
        answers = await asyncio.gather(
            *(child.ask("GET", "/metrics") for child in self._children), return_exceptions=True
        )
        for child, answer in zip(self._children, answers, strict=True):
            if isinstance(answer, tuple):
                texts[child.name] = answer[1].decode()
            elif not isinstance(answer, ChildError):
                raise answer
        return merge(texts)

    async def _status(self) -> Json:
        answers = await self._ask_all(self._children, "GET", "/status")
        own = self._process.status()
        own["configuration"] = _joined_configuration(own["configuration"], answers)
        clients = [answers[edge.name].get("clients", 0) for edge in self._edges]
        return {
            **own,
            "clients": sum(clients),
            "store_history": _of_the_first(self._routers, answers),
            "shedding": sum(answers[edge.name].get("shedding", 0) for edge in self._edges),
            "drain": _joined_progress(
                [answers[edge.name].get("drain") or {} for edge in self._edges]
            ),
            "processes": {
                child.name: {
                    **answers[child.name],
                    "pid": child.pid,
                    "restarts": child.restart_count,
                }
                for child in self._children
            },
        }

    async def _ask_all(
        self, children: Sequence[ChildProcess], method: str, target: str
    ) -> dict[str, Json]:
        """Return the response of each; ``reason`` alone for one that does not respond."""

        async def ask(child: ChildProcess) -> Json:
            try:
                return await child.ask_json(method, target) or {}
            except ChildError as error:
                return {"ready": False, "reason": str(error)}

        answers = await asyncio.gather(*(ask(child) for child in children))
        return {child.name: answer for child, answer in zip(children, answers, strict=True)}

    # Draining

    async def _drain(self, _reason: str) -> Json:
        """Drain all edges; one that exits meanwhile is drained."""
        for edge in self._edges:
            edge.is_draining = True
        return _joined_progress(list((await self._ask_all(self._edges, "POST", "/drain")).values()))

    async def _progress(self) -> Json:
        return _joined_progress(list((await self._ask_all(self._edges, "GET", "/drain")).values()))

    # Shedding

    async def _shed(self, count: int) -> int | None:
        """Distribute over the edges as if clients were chosen from all of them together."""
        answers = await self._ask_all(self._edges, "GET", "/status")
        open_counts = [int(answers[edge.name].get("clients", 0)) for edge in self._edges]
        candidates = [index for index, size in enumerate(open_counts) for _ in range(size)]
        chosen = random.sample(candidates, min(count, len(candidates)))
        counts = await asyncio.gather(
            *(_shed_by(edge, chosen.count(index)) for index, edge in enumerate(self._edges))
        )
        known = [shedding for shedding in counts if shedding is not None]
        return sum(known) if known else None

    async def _shedding(self) -> int:
        answers = await self._ask_all(self._edges, "GET", "/shed")
        return sum(int(answer.get("shedding", 0)) for answer in answers.values())

    # Clients

    async def _clients(self, count: int, after: str) -> list[Json]:
        pages = await asyncio.gather(*(_clients_of(edge, count, after) for edge in self._edges))
        merged = heapq.merge(*pages, key=_key_of)
        return [client for client, _ in zip(merged, range(count), strict=False)]

    async def _client(self, client_id: str, mount_point: str | None) -> Json | None:
        if mount_point is not None:
            target = f"/clients/{_named(client_id, mount_point)}"
            answers = await self._ask_all(self._edges, "GET", target)
            return next((answer for answer in answers.values() if "client_id" in answer), None)
        clients = await asyncio.gather(*(_client_named(edge, client_id) for edge in self._edges))
        found = {str(client["mount_point"]): client for client in clients if client is not None}
        if len(found) > 1 and "" not in found:
            raise AmbiguousClient
        return found.get("") or next(iter(found.values()), None)

    async def _disconnect(self, client_id: str, mount_point: str | None) -> bool:
        if mount_point is None:
            client = await self._client(client_id, None)
            if client is None:
                return False
            mount_point = str(client["mount_point"])
        target = f"/clients/{_named(client_id, mount_point)}"
        answers = await self._ask_all(self._edges, "DELETE", target)
        return any("disconnected" in answer for answer in answers.values())

    async def _end_session(self, client_id: str, mount_point: str) -> bool | None:
        """Disconnect the client where it is, then have any edge end its session."""
        was_connected = await self._disconnect(client_id, mount_point)
        target = f"/sessions/{_named(client_id, mount_point)}"
        for edge in self._edges:
            try:
                status, _ = await edge.ask("DELETE", target)
            except ChildError:
                continue
            if status in {HTTPStatus.OK, HTTPStatus.NOT_FOUND}:
                return was_connected or status == HTTPStatus.OK
        return None


def _of_the_first(routers: Sequence[ChildProcess], answers: Mapping[str, Json]) -> Json | None:
    """Return the history of the store as the first router that responds has it."""
    found = (answers[router.name].get("store_history") for router in routers)
    return next((history for history in found if history), None)


async def _readiness_of(child: ChildProcess) -> Readiness:
    """Return whether a process is ready, and its name with the reason; "" for none."""
    try:
        status, body = await child.ask("GET", "/readyz")
    except ChildError as error:
        return False, str(error)
    ready, text = status == 200, body.decode(errors="replace").strip()
    if ready:
        text = text.removeprefix("ready").removeprefix("; ")
    return ready, text and f"{child.name}: {text}"


async def _shed_by(edge: ChildProcess, count: int) -> int | None:
    """Have one edge shed clients; None for one that drains, or does not respond."""
    try:
        answer = await edge.ask_json("POST", f"/shed?connections={count}")
    except ChildError:
        return None
    return None if answer is None else int(answer["shedding"])


def _key_of(client: Json) -> str:
    return session_key(str(client["mount_point"]), str(client["client_id"]))


def _named(client_id: str, mount_point: str) -> str:
    return f"{quote(client_id, safe='')}?mount_point={quote(mount_point, safe='')}"


async def _client_named(edge: ChildProcess, client_id: str) -> Json | None:
    """Return the client with an identifier, of any mount point. Raises AmbiguousClient."""
    try:
        status, body = await edge.ask("GET", f"/clients/{quote(client_id, safe='')}")
    except ChildError:
        return None
    if status == HTTPStatus.CONFLICT:
        raise AmbiguousClient
    found: Json | None = json.loads(body) if status == HTTPStatus.OK else None
    return found


async def _clients_of(edge: ChildProcess, count: int, after: str) -> list[Json]:
    """Return the next clients of one edge; none of one that does not respond."""
    found: list[Json] = []
    position: str | None = after
    while position is not None and len(found) < count:
        limit = min(MAX_LIMIT, count - len(found))
        try:
            page = await edge.ask_json(
                "GET", f"/clients?limit={limit}&after={quote(position, safe='')}"
            )
        except ChildError:
            break
        if page is None:
            break
        found += page["clients"]
        position = page["next"]
    return found


def _joined_configuration(own: Json, answers: Mapping[str, Json]) -> Json:
    """Return the supervisor's own, with the first problem of a process."""
    problems = [own["problem"]]
    problems += [
        f"{name}: {problem}"
        for name, answer in answers.items()
        if (problem := answer.get("configuration", {}).get("problem"))
    ]
    files: Json = dict(own["files"])
    for answer in answers.values():
        for path, file in answer.get("configuration", {}).get("files", {}).items():
            if path not in files or file["problem"]:
                files[path] = file
    return {
        **own,
        "problem": next((problem for problem in problems if problem), ""),
        "files": files,
    }


def _joined_progress(parts: Sequence[Json]) -> Json:
    """Return the progress of several drains together, without edges that have exited."""
    known = [part for part in parts if "draining" in part]
    since = [part["since"] for part in known if part["since"]]
    return {
        "draining": any(part["draining"] for part in known),
        "done": all(part["done"] for part in known),
        "reason": next((part["reason"] for part in known if part["reason"]), None),
        "since": min(since, default=None),
        "clients_at_start": sum(part["clients_at_start"] for part in known),
        "clients_left": sum(part["clients_left"] for part in known),
    }
