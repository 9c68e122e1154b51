"""The protocol ``Cluster`` over HTTP, and lists and watches.

Called by ``reconcile`` (through ``interface`` and ``cache``) and by ``handlers``; ``api_server``
sends the requests. Never knows what objects mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote

from tidegate_operator import names
from tidegate_operator.kube.api_server import FULL_OBJECT, METADATA_ONLY, ApiServer, Login
from tidegate_operator.kube.interface import Event, KubeError, KubeUnavailable, Listed
from tidegate_operator.plan import MANAGED_KINDS, OPTIONAL_KINDS, ROUTE_KINDS, ObjectRef
from tidegate_operator.render import Manifest

log = logging.getLogger(__name__)

StartT = TypeVar("StartT")

#: How long the set of installed optional kinds is cached.
KINDS_TTL_S: Final = 60.0
#: The API group of SecurityContextConstraints.
OPENSHIFT_SECURITY: Final = "security.openshift.io"
#: Objects per page of a list.
PAGE_SIZE: Final = 250
#: Pause before objects are listed again, and after a watch that was closed at once: the server may
#: reply to every watch with "resource version too old", a proxy may close every connection.
RELIST_PAUSE_S: Final = 1.0

PLURALS: Final = {
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "Service": "services",
    "Pod": "pods",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Event": "events",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Certificate": "certificates",
    "ServiceMonitor": "servicemonitors",
    "HTTPRoute": "httproutes",
    "TLSRoute": "tlsroutes",
    "TCPRoute": "tcproutes",
    "CustomResourceDefinition": "customresourcedefinitions",
    "Job": "jobs",
    "CronJob": "cronjobs",
    names.KIND: names.PLURAL,
    names.BACKUP_KIND: names.BACKUP_PLURAL,
}
#: How much of a pod's log is read for its last line.
LOG_BYTES: Final = 8192


class KubeApi:
    """``Cluster`` over HTTP. Use as an asynchronous context manager."""

    def __init__(self, login: Login) -> None:
        self._server = ApiServer(login)
        self._kinds: Mapping[str, str] = {}
        self._kinds_until_s = 0.0
        #: Responses by method and status.
        self.responses = self._server.responses

    async def __aenter__(self) -> KubeApi:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__()

    # Calls

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self.read(ObjectRef(names.API_VERSION, names.KIND, name), namespace)

    async def brokers(self, namespace: str = "") -> list[Manifest]:
        """Return all MqttBrokers, of one namespace or of all."""
        return await self._list(names.API_VERSION, names.KIND, namespace, "")

    async def unserved_reason(self, namespace: str = "") -> str:
        """Check whether MqttBrokers can be listed; return why not, "" if they can."""
        path = collection_path(names.API_VERSION, names.KIND, namespace)
        try:
            await self._server.request("GET", path, query={"limit": "1"})
        except (KubeError, KubeUnavailable) as error:
            return f"MqttBrokers cannot be listed: {error}"
        return ""

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        watched, others = await asyncio.gather(
            self._children(namespace, name, MANAGED_KINDS),
            self.optional_children(namespace, name),
        )
        return watched + others

    async def optional_children(
        self, namespace: str, name: str, *, routes: bool = True
    ) -> list[Manifest]:
        """Return the objects of optional kinds with the labels of a broker; ``routes``: also those
        of the Gateway API, as far as the operator may list them."""
        known = await self.optional_kinds()
        kinds = [(version, kind) for kind, version in known.items() if kind not in ROUTE_KINDS]
        found = await self._children(namespace, name, kinds)
        for kind in sorted(ROUTE_KINDS & known.keys()) if routes else ():
            try:
                found += await self._children(namespace, name, [(known[kind], kind)])
            except KubeError as error:
                # Roles of an older chart, or a definition that has just been deleted.
                if error.status not in {403, 404}:
                    raise
        return found

    async def _children(
        self, namespace: str, name: str, kinds: Iterable[tuple[str, str]]
    ) -> list[Manifest]:
        selector = f"{names.INSTANCE_LABEL}={name},{names.MANAGED_BY_LABEL}={names.FIELD_MANAGER}"
        lists = (self._list(api, kind, namespace, selector) for api, kind in kinds)
        return [manifest for listed in await asyncio.gather(*lists) for manifest in listed]

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        selector = f"{names.INSTANCE_LABEL}={name},{names.NAME_LABEL}={names.APPLICATION}"
        return await self._list("v1", "Pod", namespace, selector)

    async def pods_of_job(self, namespace: str, job: str) -> list[Manifest]:
        """Return the pods of a Job, those that have ended too."""
        return await self._list("v1", "Pod", namespace, f"batch.kubernetes.io/job-name={job}")

    async def last_line(self, namespace: str, pod: str) -> str:
        """Return the last line of a pod's log, "" if it cannot be read."""
        path = object_path("v1", "Pod", namespace, pod) + "/log"
        query = {"tailLines": "1", "limitBytes": str(LOG_BYTES)}
        try:
            return await self._server.text(path, query)
        except (KubeError, KubeUnavailable):
            # The node may be away; what it says is a comfort only.
            return ""

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self.get(object_path(ref.api_version, ref.kind, namespace, ref.name))

    async def get(self, path: str) -> Manifest | None:
        """Return the object at a path, None if there is none."""
        try:
            return await self._server.request("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """See ``Cluster``."""
        ref = ObjectRef.of(manifest)
        namespace = manifest["metadata"].get("namespace", "")
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._server.request(
            "PATCH",
            object_path(ref.api_version, ref.kind, namespace, ref.name),
            query=query,
            body=manifest,
            # JSON is valid YAML, and faster to parse.
            content_type="application/apply-patch+yaml",
        )

    async def delete(
        self, ref: ObjectRef, namespace: str, uid: str, *, orphan: bool = False
    ) -> None:
        """See ``Cluster``."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Orphan" if orphan else "Background",
            "preconditions": {"uid": uid},
        }
        path = object_path(ref.api_version, ref.kind, namespace, ref.name)
        try:
            await self._server.request("DELETE", path, body=body)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def annotate_pod(
        self,
        namespace: str,
        name: str,
        uid: str,
        value: str,
        annotation: str = names.CONFIGURATION,
    ) -> None:
        """See ``Cluster``. Kubelets sync what a pod mounts when the pod changes."""
        # With the uid, a deleted pod is a conflict; without it, apply would create a pod.
        annotations = {annotation: value}
        metadata = {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations}
        await self._server.request(
            "PATCH",
            object_path("v1", "Pod", namespace, name),
            query={"fieldManager": names.POD_FIELD_MANAGER, "force": "true"},
            body={"apiVersion": "v1", "kind": "Pod", "metadata": metadata},
            content_type="application/apply-patch+yaml",
        )

    async def set_status(
        self, namespace: str, name: str, status: Mapping[str, Any], kind: str = names.KIND
    ) -> None:
        """See ``Cluster``."""
        path = object_path(names.API_VERSION, kind, namespace, name) + "/status"
        try:
            await self._server.request(
                "PATCH",
                path,
                query={"fieldManager": names.FIELD_MANAGER},
                body=[{"op": "add", "path": "/status", "value": status}],
                content_type="application/json-patch+json",
            )
        except KubeError as error:
            if error.status != 404:
                raise

    async def set_finalizers(self, manifest: Manifest, finalizers: list[str]) -> None:
        """Replace an object's finalizers, unless it has changed since it was read."""
        ref, metadata = ObjectRef.of(manifest), manifest["metadata"]
        version = metadata["resourceVersion"]
        try:
            await self._server.request(
                "PATCH",
                object_path(ref.api_version, ref.kind, metadata["namespace"], ref.name),
                query={"fieldManager": names.FIELD_MANAGER},
                body={"metadata": {"finalizers": finalizers, "resourceVersion": version}},
                content_type="application/merge-patch+json",
            )
        except KubeError as error:
            if error.status != 404:
                raise

    async def record_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        """See ``Cluster``. A rejected event is logged only."""
        metadata = about["metadata"]
        namespace = metadata["namespace"]
        moment = _now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": about.get("kind", names.KIND),
                "name": metadata["name"],
                "namespace": namespace,
                "uid": metadata["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
        }
        try:
            await self._server.request(
                "POST", collection_path("v1", "Event", namespace), body=event
            )
        except KubeError as error:
            log.warning("event rejected", extra={"reason": str(error)})

    async def creation_failure(self, namespace: str, stateful_set: str) -> Manifest | None:
        """See ``Cluster``. None if events must not be read: roles of an earlier chart."""
        about = {"kind": "StatefulSet", "name": stateful_set}
        fields = [f"involvedObject.{key}={value}" for key, value in about.items()]
        query = {
            "fieldSelector": ",".join([*fields, "reason=FailedCreate"]),
            "limit": str(PAGE_SIZE),
        }
        try:
            page = await self._server.request(
                "GET", collection_path("v1", "Event", namespace), query=query
            )
        except KubeError:
            return None
        return max(page["items"], key=lambda one: one.get("lastTimestamp") or "", default=None)

    async def optional_kinds(self) -> Mapping[str, str]:
        """See ``Cluster``. Cached for ``KINDS_TTL_S``: CRDs may be installed later."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._kinds_until_s:
            versions = sorted({version for version, _ in OPTIONAL_KINDS})
            served = await asyncio.gather(*(self._kinds_of(version) for version in versions))
            by_version = dict(zip(versions, served, strict=True))
            found: dict[str, str] = {}
            for version, kind in OPTIONAL_KINDS:
                if kind in by_version[version]:
                    found.setdefault(kind, version)
            self._kinds = found
            self._kinds_until_s = now_s + KINDS_TTL_S
        return self._kinds

    async def platform_sets_users(self) -> bool:
        """Whether the cluster has OpenShift's SecurityContextConstraints, by its API groups."""
        try:
            found = await self._server.request("GET", "apis")
        except KubeError as error:
            if error.status in {403, 404}:
                return False
            raise
        return any(group.get("name") == OPENSHIFT_SECURITY for group in found.get("groups") or [])

    async def _kinds_of(self, api_version: str) -> frozenset[str]:
        """Return the kinds that are served in a version of a group."""
        try:
            group = await self._server.request("GET", f"apis/{api_version}")
        except KubeError as error:
            if error.status in {403, 404}:
                return frozenset()
            raise
        return frozenset(str(one.get("kind")) for one in group.get("resources") or [])

    async def watch_metadata(
        self, api_version: str, kind: str, namespace: str, selector: str
    ) -> AsyncGenerator[Manifest | None, None]:
        """Yield the metadata of objects of a kind as they change, for ever.

        ``selector`` is a label selector; "" selects all. None is yielded when the watch starts, and
        when it restarts because the resource version is too old: changes before are not reported.
        Raises KubeError and KubeUnavailable.
        """
        path = collection_path(api_version, kind, namespace)

        async def start() -> tuple[str, None]:
            page = await self._server.request("GET", path, query={"limit": "1"})
            return str(page["metadata"]["resourceVersion"]), None

        watch = self._watch(path, selector, METADATA_ONLY, start)
        async with contextlib.aclosing(watch) as news:
            async for event in news:
                yield None if event is None else event["object"]

    async def list_and_watch(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        selector: str,
        keep: Callable[[Manifest], Manifest],
    ) -> AsyncGenerator[Listed | Event, None]:
        """Yield all objects of a kind, then their changes, for ever.

        ``keep`` reduces each object as soon as it is read, to limit memory. Objects are listed
        again when the resource version is too old. Raises KubeError and KubeUnavailable.
        """
        path = collection_path(api_version, kind, namespace)

        async def start() -> tuple[str, Listed]:
            listed = await self._list_all(api_version, kind, namespace, selector, keep)
            return listed.version, listed

        watch = self._watch(path, selector, FULL_OBJECT, start)
        async with contextlib.aclosing(watch) as news:
            async for event in news:
                if isinstance(event, Listed):
                    yield event
                else:
                    manifest = {"apiVersion": api_version, "kind": kind} | event["object"]
                    yield Event(keep(manifest), event["type"] == "DELETED")

    async def _watch(
        self,
        path: str,
        selector: str,
        accepted: str,
        start: Callable[[], Awaitable[tuple[str, StartT]]],
    ) -> AsyncGenerator[StartT | dict[str, Any], None]:
        """Yield what ``start`` returns with a resource version, then the events after it, for ever.

        Started again when the resource version is too old.
        """
        version = ""
        clock = asyncio.get_running_loop().time
        while True:
            if not version:
                version, started = await start()
                yield started
            began_s = clock()
            async with contextlib.aclosing(
                self._server.events(path, version, selector, accepted)
            ) as events:
                async for event in events:
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event
            if not version or clock() - began_s < RELIST_PAUSE_S:
                await relist_pause()

    async def _list(
        self, api_version: str, kind: str, namespace: str, selector: str
    ) -> list[Manifest]:
        return (await self._list_all(api_version, kind, namespace, selector)).objects

    async def _list_all(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        selector: str,
        keep: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    ) -> Listed:
        path = collection_path(api_version, kind, namespace)
        query = {"limit": str(PAGE_SIZE)} | ({"labelSelector": selector} if selector else {})
        objects: list[Manifest] = []
        while True:
            page = await self._server.request("GET", path, query=query)
            # Items of a list have no apiVersion and kind.
            objects += [
                keep({"apiVersion": api_version, "kind": kind} | item) for item in page["items"]
            ]
            token = page["metadata"].get("continue")
            if not token:
                return Listed(objects, page["metadata"].get("resourceVersion", ""))
            query["continue"] = token


async def relist_pause() -> None:
    """Wait before objects are listed again, or a watch that was closed at once is restarted."""
    await asyncio.sleep(RELIST_PAUSE_S)


# Paths


def collection_path(api_version: str, kind: str, namespace: str) -> str:
    """Return the path of objects of a kind; namespace "" is all namespaces."""
    root = f"api/{api_version}" if "/" not in api_version else f"apis/{api_version}"
    namespaced = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{namespaced}/{PLURALS[kind]}"


def object_path(api_version: str, kind: str, namespace: str, name: str) -> str:
    """Return the path of an object."""
    return f"{collection_path(api_version, kind, namespace)}/{quote(name)}"


def _now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
