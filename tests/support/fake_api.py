"""A cluster behind HTTP: ``FakeCluster`` spoken to as kopf and the operator speak to an API server.

Discovery, lists with labels, watches, server-side apply, status, delete. Everything else is 404,
and noted, so that a call that nobody thought of is noticed. No validation, no rights.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from support.fake_cluster import FakeCluster, Key, Object, Refused
from tidegate_operator import names
from tidegate_operator.kube.client import PLURALS

_KINDS = {plural: kind for kind, plural in PLURALS.items()}


class FakeApi:
    """Serves from ``start`` to ``stop``; ``cluster`` may be written to behind its back."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.url = ""
        #: Requests that came, by method and kind of what they were about.
        self.asked: Counter[tuple[str, str]] = Counter()
        self.unknown: list[str] = []
        self._watches: list[tuple[str, asyncio.Queue[Object]]] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a port of the loopback interface."""
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/api", self._core)
        app.router.add_get("/apis", self._groups)
        app.router.add_get("/api/v1", self._resources)
        app.router.add_get("/apis/{group}/{version}", self._resources)
        for root in ("/api/{version}", "/apis/{group}/{version}"):
            for place in ("/namespaces/{namespace}", ""):
                app.router.add_route("*", f"{root}{place}/{{plural}}", self._collection)
                app.router.add_route("*", f"{root}{place}/{{plural}}/{{name}}", self._object)
                app.router.add_route(
                    "*", f"{root}{place}/{{plural}}/{{name}}/{{part}}", self._object
                )
        app.router.add_route("*", "/{rest:.*}", self._unknown)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def stop(self) -> None:
        """End every watch and stop listening."""
        for _, queue in self._watches:
            queue.put_nowait({})
        if self._runner is not None:
            await self._runner.cleanup()

    def changed(self, one: Object, kind: str = "MODIFIED") -> None:
        """Tell those who watch."""
        for watched, queue in self._watches:
            if watched == one["kind"]:
                queue.put_nowait({"type": kind, "object": one})

    # Discovery

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"major": "1", "minor": "37"})

    async def _core(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1"]})

    async def _groups(self, _: web.Request) -> web.Response:
        groups = []
        for group, name in ((names.GROUP, names.VERSION), ("apiextensions.k8s.io", "v1")):
            version = {"groupVersion": f"{group}/{name}", "version": name}
            groups.append({"name": group, "versions": [version], "preferredVersion": version})
        return web.json_response({"groups": groups})

    async def _resources(self, request: web.Request) -> web.Response:
        known = {
            names.GROUP: [(names.PLURAL, names.KIND, True)],
            "apiextensions.k8s.io": [
                ("customresourcedefinitions", "CustomResourceDefinition", False)
            ],
            "": [("namespaces", "Namespace", False), ("events", "Event", True)],
        }
        group = request.match_info.get("group", "")
        if group not in known:
            return web.json_response({"message": "no such group"}, status=404)
        resources = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": namespaced,
                "verbs": ["get", "list", "watch", "patch", "create"],
            }
            for plural, kind, namespaced in known[group]
        ]
        if group == names.GROUP:
            resources.append(resources[0] | {"name": f"{names.PLURAL}/status"})
        return web.json_response({"resources": resources})

    async def _unknown(self, request: web.Request) -> web.Response:
        self.unknown.append(f"{request.method} {request.path}")
        return web.json_response({"message": "not here"}, status=404)

    # Objects

    def _where(self, request: web.Request) -> Key:
        found = request.match_info
        group = found.get("group")
        version = found["version"]
        api_version = f"{group}/{version}" if group else version
        kind = _KINDS.get(found["plural"], found["plural"])
        return (api_version, kind, found.get("namespace", ""), found.get("name", ""))

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        api_version, kind, namespace, _ = self._where(request)
        if request.method == "POST":
            self.asked[("POST", kind)] += 1
            return web.json_response(await request.json())
        if request.query.get("watch"):
            self.asked[("WATCH", kind)] += 1
            return await self._watch(request, kind)
        self.asked[("LIST", kind)] += 1
        wanted = dict(
            part.split("=") for part in request.query.get("labelSelector", "").split(",") if part
        )
        items = [
            one
            for key, one in self.cluster.objects.items()
            if key[:2] == (api_version, kind)
            and namespace in {"", key[2]}
            and wanted.items() <= _labels(one).items()
        ]
        return web.json_response(
            {
                "apiVersion": api_version,
                "kind": f"{kind}List",
                "metadata": {"resourceVersion": str(len(self.cluster.writes))},
                "items": items,
            }
        )

    async def _watch(self, request: web.Request, kind: str) -> web.StreamResponse:
        queue: asyncio.Queue[Object] = asyncio.Queue()
        self._watches.append((kind, queue))
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while event := await queue.get():
                await answer.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watches.remove((kind, queue))
        return answer

    async def _object(self, request: web.Request) -> web.StreamResponse:
        key = self._where(request)
        kind = key[1]
        self.asked[(request.method, kind)] += 1
        there = self.cluster.objects.get(key)
        if request.method == "PATCH":
            return self._patch(request, key, there, await request.json())
        if there is None:
            return web.json_response({"message": f"{kind} {key[3]} not found"}, status=404)
        if request.method == "DELETE":
            self.cluster.delete(kind, key[3])
            self.changed(there, "DELETED")
        return web.json_response(there)

    def _patch(
        self, request: web.Request, key: Key, there: Object | None, body: Any
    ) -> web.Response:
        if request.match_info.get("part") == "status":
            assert there is not None
            (operation,) = body
            there["status"] = operation["value"]
            self.changed(there)
            return web.json_response(there)
        assert request.headers["Content-Type"] == "application/apply-patch+yaml", request.path
        dry_run = "dryRun" in request.query
        try:
            found = self.cluster.apply(body, manager=request.query["fieldManager"], dry_run=dry_run)
        except Refused as refused:
            return web.json_response({"message": str(refused)}, status=422)
        if not dry_run:
            self.changed(found, "MODIFIED" if there is not None else "ADDED")
        return web.json_response(found)


def _labels(one: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = one["metadata"].get("labels") or {}
    return found
