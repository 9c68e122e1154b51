"""One node without containers: pods are bound, mounted, Running and Ready within moments.

Each pod has a loopback address of its own, and an admin port that answers as an edge or a router
does (``fake_pod``). Switches make pods fail, keep mounted files old, and hold back the addresses of
load balancers, which come from here too. It works in a thread with an event loop of its own; the
switches may be used from any thread.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import itertools
import json
import random
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

from support.kube.api import Object, path_of
from support.kube.fake_pod import FakePod, Fault, Files

NODE: Final = "fake-node"
WATCHED: Final = ("Pod", "ConfigMap", "Secret", "Service", "PersistentVolumeClaim")
READY_S: Final = 30.0
_AGAIN_S: Final = 0.1
_ROOM: Final = "1000"

Key = tuple[str, str]
T = TypeVar("T")


class FakeKubelet:
    """See the module's docstring. A context manager."""

    def __init__(self, url: str, authority: Path, token: str) -> None:
        self._url = url
        self._authority = authority
        self._token = token
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake-kubelet", daemon=True)
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._objects: dict[str, dict[Key, Object]] = {kind: {} for kind in WATCHED}
        self._listed: set[str] = set()
        self._pods: dict[Key, FakePod] = {}
        self._faults: dict[Key, tuple[Fault, str]] = {}
        self._problems: dict[Key, str] = {}
        self._clients: dict[Key, int] = {}
        self._ends: dict[Key, tuple[int, str]] = {}
        self._held_mounts: set[str] = set()
        self._held_starts: set[str] = set()
        self._held_addresses: set[str] = set()
        self._dirty: asyncio.Queue[tuple[str, Key]] = asyncio.Queue()
        self._queued: set[tuple[str, Key]] = set()
        self._numbers = itertools.count(1)
        self._net = random.randrange(1, 255)
        #: What went wrong in here; a test that ends with something in it is not to be believed.
        self.errors: list[str] = []

    def __enter__(self) -> FakeKubelet:
        self._thread.start()
        assert self._ready.wait(READY_S), f"the fake kubelet does not start: {self.errors}"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(READY_S)

    # Switches

    def fail(self, namespace: str, prefix: str, fault: Fault, message: str = "") -> None:
        """Make pods whose names begin so fail, those that come later too."""
        self._switch(lambda: self._faults.update({(namespace, prefix): (fault, message)}))

    def heal(self, namespace: str, prefix: str) -> None:
        """Take ``fail`` back."""
        self._switch(lambda: self._faults.pop((namespace, prefix), None))

    def hold_mounts(self, namespace: str) -> None:
        """Keep mounted files as they are, as a kubelet does for up to a minute."""
        self._switch(lambda: self._held_mounts.add(namespace))

    def release_mounts(self, namespace: str) -> None:
        """Take ``hold_mounts`` back."""
        self._switch(lambda: self._held_mounts.discard(namespace))

    def report(self, namespace: str, prefix: str, problem: str) -> None:
        """Make pods say that something is wrong with their configuration ("" ends it)."""
        self._switch(lambda: self._problems.update({(namespace, prefix): problem}))

    def connect(self, namespace: str, prefix: str, clients: int) -> None:
        """Make each pod say that it has so many clients."""
        self._switch(lambda: self._clients.update({(namespace, prefix): clients}))

    def end(self, namespace: str, prefix: str, message: str, exit_code: int = 0) -> None:
        """Let pods of Jobs end so, with this termination message."""
        self._switch(lambda: self._ends.update({(namespace, prefix): (exit_code, message)}))

    def hold_starts(self, namespace: str) -> None:
        """Start no pod that does not run already: it stays as if its image were pulled."""
        self._switch(lambda: self._held_starts.add(namespace))

    def release_starts(self, namespace: str) -> None:
        """Take ``hold_starts`` back."""
        self._switch(lambda: self._held_starts.discard(namespace))

    def hold_addresses(self, namespace: str) -> None:
        """Be a cloud that gives load balancers no address."""
        self._switch(lambda: self._held_addresses.add(namespace))

    def give_addresses(self, namespace: str) -> None:
        """Take ``hold_addresses`` back."""
        self._switch(lambda: self._held_addresses.discard(namespace))

    def pods(self, namespace: str, prefix: str = "") -> list[FakePod]:
        """Return the pods that run now, by name; only to be read."""
        found = list(self._pods.items())
        return [
            one for (place, name), one in sorted(found) if _fits(place, name, namespace, prefix)
        ]

    def _switch(self, change: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def do() -> None:
            change()
            for kind in ("Pod", "Service"):
                for key in self._objects[kind]:
                    self._touch(kind, key)
            done.set_result(None)

        self._loop.call_soon_threadsafe(do)
        done.result(READY_S)

    # Running

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        context = ssl.create_default_context(cafile=str(self._authority))
        async with aiohttp.ClientSession(
            base_url=self._url,
            headers={"Authorization": f"Bearer {self._token}", "User-Agent": "fake-kubelet"},
            connector=aiohttp.TCPConnector(ssl=context, limit=64),
            timeout=aiohttp.ClientTimeout(total=30),
            read_bufsize=2**22,
        ) as self._http:
            await self._make_node()
            tasks = [asyncio.create_task(self._watch(kind)) for kind in WATCHED]
            tasks += [asyncio.create_task(self._work()) for _ in range(4)]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for pod in self._pods.values():
                await pod.close()
        # Connections with TLS take a moment to close.
        await asyncio.sleep(_AGAIN_S)

    async def _make_node(self) -> None:
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NODE, "labels": {"kubernetes.io/hostname": NODE}},
        }
        await self._ask("POST", path_of("Node"), node)
        amounts = {"cpu": _ROOM, "memory": f"{_ROOM}Gi", "pods": "10000"}
        ready = {"type": "Ready", "status": "True", "reason": "Fake", "message": ""}
        status = {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [ready | {"lastHeartbeatTime": _now(), "lastTransitionTime": _now()}],
        }
        await self._ask("PATCH", path_of("Node", name=NODE, part="status"), {"status": status})

    async def _watch(self, kind: str) -> None:
        """Keep the copies of a kind up to date, for ever."""
        while True:
            try:
                async for key in self._changes(kind):
                    self._changed(kind, key)
            except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
                await asyncio.sleep(_AGAIN_S)

    async def _changes(self, kind: str) -> AsyncIterator[Key]:
        path = path_of(kind)
        listed = await self._ask("GET", path)
        objects = self._objects[kind]
        there = {_key(one): one for one in listed["items"]}
        touched = {*objects, *there}
        objects.clear()
        objects.update(there)
        for key in touched:
            yield key
        self._listed.add(kind)
        if self._listed == set(WATCHED):
            self._ready.set()
        query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"]}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._http.get(path, params=query, timeout=timeout) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                one = event["object"]
                if event["type"] == "DELETED":
                    objects.pop(_key(one), None)
                else:
                    objects[_key(one)] = one
                yield _key(one)

    def _changed(self, kind: str, key: Key) -> None:
        """Have everything looked at that depends on an object."""
        if kind in {"Pod", "Service"}:
            self._touch(kind, key)
            return
        for pod in self._objects["Pod"]:
            if pod[0] == key[0]:
                self._touch("Pod", pod)

    def _touch(self, kind: str, key: Key) -> None:
        if (kind, key) not in self._queued:
            self._queued.add((kind, key))
            self._dirty.put_nowait((kind, key))

    async def _work(self) -> None:
        while True:
            kind, key = await self._dirty.get()
            self._queued.discard((kind, key))
            try:
                await (self._sync_pod(key) if kind == "Pod" else self._sync_service(key))
            except aiohttp.ClientResponseError as error:
                if error.status == 429 or error.status >= 500:
                    # It is busy, or has only just started: a kubelet comes again.
                    self._loop.call_later(_AGAIN_S, self._touch, kind, key)
                # Gone, changed meanwhile, or in a namespace that goes: an event says so.
                elif error.status not in {403, 404, 409}:
                    self.errors.append(f"{kind} {key}: {error.status} {error.message}")
            except (aiohttp.ClientError, TimeoutError, OSError):
                self._loop.call_later(_AGAIN_S, self._touch, kind, key)
            except Exception as error:
                self.errors.append(f"{kind} {key}: {error!r}")

    # Pods

    async def _sync_pod(self, key: Key) -> None:
        one = self._objects["Pod"].get(key)
        if one is None or "deletionTimestamp" in one["metadata"]:
            gone = self._pods.pop(key, None)
            if gone is not None:
                await gone.close()
            if one is not None:
                body = {
                    "gracePeriodSeconds": 0,
                    "preconditions": {"uid": one["metadata"]["uid"]},
                }
                await self._ask("DELETE", path_of("Pod", *key), body)
            return
        fault, message = self._of(self._faults, key, ("", ""))
        if not one["spec"].get("nodeName"):
            if fault != "unstarted":
                await self._bind(key)
            return
        pod = self._pods.get(key)
        if pod is None:
            labels = one["metadata"].get("labels") or {}
            pod = self._pods[key] = FakePod(*key, spec=one["spec"], labels=labels)
        pod.problem = self._of(self._problems, key, "")
        pod.clients = self._of(self._clients, key, 0)
        waits = self._waits_for(key, pod)
        if not waits:
            await self._serve(pod, fault)
        status = _pod_status(one, pod, "waiting" if waits else fault, waits or message)
        ending = self._of(self._ends, key, None)
        if ending is not None and not waits:
            status = _ended(status, *ending)
        if _differs(one.get("status") or {}, status):
            path = path_of("Pod", *key, "status")
            await self._ask("PATCH", path, {"status": status}, strategic=True)

    async def _bind(self, key: Key) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key[1], "namespace": key[0]},
            "target": {"apiVersion": "v1", "kind": "Node", "name": NODE},
        }
        await self._ask("POST", path_of("Pod", *key, "binding"), body)

    def _waits_for(self, key: Key, pod: FakePod) -> str:
        """Return what a pod waits for before it can start; later on, mount what is new."""
        if pod.mounted and pod.namespace in self._held_mounts:
            return ""
        if not pod.mounted and pod.namespace in self._held_starts:
            return "pulling the image"
        for claim in pod.claims():
            found = self._objects["PersistentVolumeClaim"].get((key[0], claim))
            if found is None or found.get("status", {}).get("phase") != "Bound":
                return f'persistentvolumeclaim "{claim}" is not bound'
        missing = pod.mount(self._read)
        return "" if pod.mounted else missing

    def _read(self, kind: str, namespace: str, name: str) -> Files | None:
        one = self._objects[kind].get((namespace, name))
        if one is None:
            return None
        data: Mapping[str, str] = one.get("data") or {}
        if kind == "Secret":
            return {key: base64.b64decode(value) for key, value in data.items()}
        return {key: value.encode() for key, value in data.items()}

    async def _serve(self, pod: FakePod, fault: str) -> None:
        if not pod.address:
            pod.address = self._address()
        if fault in {"crashing", "silent"}:
            await pod.close()
            return
        await pod.serve()

    def _address(self) -> str:
        number = next(self._numbers)
        return f"127.{self._net}.{number // 250 % 250}.{number % 250 + 2}"

    def _of(self, switches: Mapping[Key, T], key: Key, otherwise: T) -> T:
        for (namespace, prefix), value in switches.items():
            if _fits(*key, namespace, prefix):
                return value
        return otherwise

    # Load balancers

    async def _sync_service(self, key: Key) -> None:
        one = self._objects["Service"].get(key)
        if one is None or one["spec"].get("type") != "LoadBalancer":
            return
        has = (one.get("status") or {}).get("loadBalancer") or {}
        if has.get("ingress") or key[0] in self._held_addresses:
            return
        given = {"ip": f"203.0.113.{next(self._numbers) % 250 + 1}", "ipMode": "VIP"}
        status = {"status": {"loadBalancer": {"ingress": [given]}}}
        await self._ask("PATCH", path_of("Service", *key, "status"), status)

    async def _ask(
        self, method: str, path: str, body: Object | None = None, *, strategic: bool = False
    ) -> Any:
        kind = "strategic-merge-patch" if strategic else "merge-patch"
        content_type = f"application/{kind}+json" if method == "PATCH" else "application/json"
        async with self._http.request(
            method,
            path,
            data=None if body is None else json.dumps(body),
            headers={} if body is None else {"Content-Type": content_type},
        ) as answer:
            if answer.status >= 400:
                raise aiohttp.ClientResponseError(
                    answer.request_info,
                    (),
                    status=answer.status,
                    message=(await answer.text())[:500],
                )
            return await answer.json()


def _pod_status(one: Object, pod: FakePod, fault: str, message: str) -> Object:
    """Return what a kubelet would say of a pod."""
    now = _now()
    old = one.get("status") or {}
    before = {entry["type"]: entry for entry in old.get("conditions") or []}
    is_ready = fault in {"", "silent"}
    conditions = []
    for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready"):
        state = "True" if is_ready or kind in {"PodScheduled", "Initialized"} else "False"
        last = before.get(kind, {})
        since = last.get("lastTransitionTime") if last.get("status") == state else None
        conditions.append({"type": kind, "status": state, "lastTransitionTime": since or now})
    started = old.get("startTime") or now
    states: dict[str, Object] = {
        "waiting": {"state": {"waiting": {"reason": "ContainerCreating", "message": message}}},
        "crashing": {
            "restartCount": 3,
            "state": {
                "waiting": {
                    "reason": "CrashLoopBackOff",
                    "message": "back-off 10s restarting failed container",
                }
            },
            "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": message}},
        },
    }
    running: Object = {"state": {"running": {"startedAt": started}}}
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": f"fake://{container['image']}",
            "ready": is_ready,
            "started": fault not in states,
            "restartCount": 0,
        }
        | states.get(fault, running)
        for container in one["spec"]["containers"]
    ]
    found: Object = {
        "phase": "Pending" if fault == "waiting" else "Running",
        "startTime": started,
        "hostIP": "127.0.0.1",
        "conditions": conditions,
        "containerStatuses": containers,
    }
    if pod.address:
        found |= {"podIP": pod.address, "podIPs": [{"ip": pod.address}]}
    return found


def _ended(status: Object, exit_code: int, message: str) -> Object:
    """Return what a kubelet says of a pod whose containers have ended."""
    reason = "Error" if exit_code else "Completed"
    ended = {"exitCode": exit_code, "reason": reason, "message": message, "finishedAt": _now()}
    containers = [
        one | {"ready": False, "state": {"terminated": ended | {"startedAt": status["startTime"]}}}
        for one in status["containerStatuses"]
    ]
    return status | {
        "phase": "Failed" if exit_code else "Succeeded",
        "containerStatuses": containers,
    }


def _differs(old: Object, new: Object) -> bool:
    """Whether what is there says anything else; of lists in it only what matters here."""
    for key, value in new.items():
        if key == "conditions":
            states = {entry["type"]: entry["status"] for entry in old.get(key) or []}
            if any(states.get(entry["type"]) != entry["status"] for entry in value):
                return True
        elif key == "containerStatuses":
            if [_essence(entry) for entry in old.get(key) or []] != [*map(_essence, value)]:
                return True
        elif old.get(key) != value:
            return True
    return False


def _essence(container: Object) -> tuple[Any, ...]:
    ended = (container.get("lastState") or {}).get("terminated") or {}
    return (
        container["name"],
        container["ready"],
        *container["state"],
        container["state"].get("waiting", {}).get("message"),
        ended.get("message"),
    )


def _fits(namespace: str, name: str, wanted: str, prefix: str) -> bool:
    return namespace == wanted and name.startswith(prefix)


def _key(one: Object) -> Key:
    return (one["metadata"].get("namespace", ""), one["metadata"]["name"])


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
