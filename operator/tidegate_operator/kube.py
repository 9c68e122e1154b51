"""The only access to the API server: a few calls over HTTP, with what kopf has found to log in.

Called by ``reconcile`` (through the protocol ``Cluster``, so that tests can stand in for a server)
and by ``handlers``. Knows no rules: it reads, writes, and says why something was refused.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import json
import logging
import ssl
import tempfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import aiohttp
import kopf

from tidegate_operator import names
from tidegate_operator.plan import MANAGED_KINDS, OPTIONAL_KINDS, ObjectRef
from tidegate_operator.render import Manifest

log = logging.getLogger(__name__)

#: How long one request may take; a watch is ended by the server before that.
REQUEST_TIMEOUT_S: Final = 30.0
WATCH_S: Final = 240
#: How long the answer to the question which kinds there are is good for.
KINDS_S: Final = 60.0
#: A page of a list.
PAGE: Final = 250
#: The largest line of a watch; objects have at most about three MiB.
_MAX_LINE_BYTES: Final = 8 * 1024 * 1024

#: Sessions with credentials of before that are kept for what is under way.
_MAX_OLD: Final = 2
#: What there may be instead of an answer; a session that is closed ends what is under way with a
#: RuntimeError.
_NO_ANSWER: Final = (TimeoutError, OSError, aiohttp.ClientError, ValueError, RuntimeError)

_PLURALS: Final = {
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "Service": "services",
    "Pod": "pods",
    "Event": "events",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "NetworkPolicy": "networkpolicies",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Certificate": "certificates",
    "ServiceMonitor": "servicemonitors",
    "CustomResourceDefinition": "customresourcedefinitions",
    names.KIND: names.PLURAL,
}
#: How the server complains of a field that it does not know: as an error of its own.
_NOT_IN_SCHEMA: Final = "failed to create typed patch object"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class KubeError(Exception):
    """The API server says no. ``status`` is HTTP's; the message is the server's own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_the_object(self) -> bool:
        """Whether what was sent is to blame, and sending it again will not help."""
        return self.status in {400, 403, 404, 413, 422}

    @property
    def is_about_dry_runs(self) -> bool:
        """Whether only the question was refused: some admission webhooks cannot be asked."""
        return self.status == 400 and "dry run" in str(self)


class KubeUnavailable(Exception):
    """The API server cannot be reached, or is too busy: later."""


@dataclass(slots=True, frozen=True)
class Listed:
    """All objects of a kind, as they were at a version of the cluster; events go on from there."""

    objects: list[Manifest]
    version: str


@dataclass(slots=True, frozen=True)
class Event:
    """An object has come, has changed, or has gone."""

    manifest: Manifest
    is_deleted: bool = False


class Cluster(Protocol):
    """What ``reconcile`` needs of a cluster. Every call raises KubeError and KubeUnavailable."""

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """Return an MqttBroker, None if there is none."""

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """Return everything that has the labels of a broker, in all managed kinds."""

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """Return a broker's pods."""

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """Return one object, None if there is none."""

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply one object, or only ask whether it would be accepted; return what is there."""

    async def delete(self, ref: ObjectRef, namespace: str, uid: str) -> None:
        """Delete one object, if it is still that one; what is gone already is fine."""

    async def annotate_pod(self, namespace: str, name: str, uid: str, value: str) -> None:
        """Tell a pod which configuration it shall find, if it is still that pod."""

    async def set_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Replace an MqttBroker's status."""

    async def say(self, broker: Manifest, kind: str, reason: str, message: str) -> None:
        """Record an event about a broker: ``kind`` is Normal or Warning."""

    async def optional_kinds(self) -> frozenset[str]:
        """Return which kinds of others the cluster knows."""


#: Asks for credentials anew, when the old ones are not accepted any more.
Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class KubeApi:
    """``Cluster`` over HTTP. Use as an asynchronous context manager."""

    def __init__(self, login: Login) -> None:
        self._login = login
        self._connection: kopf.ConnectionInfo | None = None
        self._session: aiohttp.ClientSession | None = None
        self._old: deque[aiohttp.ClientSession] = deque()
        self._logging_in = asyncio.Lock()
        self._kinds: frozenset[str] = frozenset()
        self._kinds_until_s = 0.0
        #: Requests made, for /metrics and tests.
        self.request_count = 0
        #: Their answers, by method and status; "none" where there was no answer.
        self.answers: Counter[tuple[str, str]] = Counter()

    async def __aenter__(self) -> KubeApi:
        await self._log_in()
        return self

    async def __aexit__(self, *_: object) -> None:
        for session in (*self._old, self._session):
            if session is not None:
                await session.close()

    async def _log_in(self) -> None:
        connection = await self._login()
        session = aiohttp.ClientSession(
            base_url=connection.server.rstrip("/") + "/",
            headers={**connection.as_http_headers(), "User-Agent": names.FIELD_MANAGER},
            connector=aiohttp.TCPConnector(ssl=tls_context(connection), limit=32),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            read_bufsize=2**20,
        )
        if self._session is not None:
            # Watches go on with the old credentials until the server ends them, soon enough.
            self._old.append(self._session)
        self._session, self._connection = session, connection
        while len(self._old) > _MAX_OLD:
            await self._old.popleft().close()

    async def _log_in_again(self, refused: aiohttp.ClientSession) -> None:
        """Log in, unless somebody else has done so since a session was refused."""
        async with self._logging_in:
            if self._session is refused:
                await self._log_in()

    # Calls

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self.read(ObjectRef(names.API_VERSION, names.KIND, name), namespace)

    async def brokers(self, namespace: str = "") -> list[Manifest]:
        """Return all MqttBrokers, of one namespace or of all."""
        return await self._list(names.API_VERSION, names.KIND, namespace, "")

    async def not_served(self, namespace: str = "") -> str:
        """Ask whether MqttBrokers can be listed; return why not, "" if they can."""
        path = collection_path(names.API_VERSION, names.KIND, namespace)
        try:
            await self._request("GET", path, query={"limit": "1"})
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

    async def optional_children(self, namespace: str, name: str) -> list[Manifest]:
        """Return the same of the kinds of others alone."""
        known = await self.optional_kinds()
        kinds = [one for one in OPTIONAL_KINDS if one[1] in known]
        return await self._children(namespace, name, kinds)

    async def _children(
        self, namespace: str, name: str, kinds: Iterable[tuple[str, str]]
    ) -> list[Manifest]:
        selector = f"{names.INSTANCE_LABEL}={name},{names.MANAGED_BY_LABEL}={names.FIELD_MANAGER}"
        lists = (self._list(api, kind, namespace, selector) for api, kind in kinds)
        return [one for found in await asyncio.gather(*lists) for one in found]

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """See ``Cluster``."""
        selector = f"{names.INSTANCE_LABEL}={name},{names.NAME_LABEL}={names.APPLICATION}"
        return await self._list("v1", "Pod", namespace, selector)

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """See ``Cluster``."""
        return await self.get(object_path(ref.api_version, ref.kind, namespace, ref.name))

    async def get(self, path: str) -> Manifest | None:
        """Return what is at a path, None if there is nothing."""
        try:
            return await self._request("GET", path)
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
        return await self._request(
            "PATCH",
            object_path(ref.api_version, ref.kind, namespace, ref.name),
            query=query,
            body=manifest,
            # JSON is YAML, and the server reads it faster.
            content_type="application/apply-patch+yaml",
        )

    async def delete(self, ref: ObjectRef, namespace: str, uid: str) -> None:
        """See ``Cluster``."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": uid},
        }
        path = object_path(ref.api_version, ref.kind, namespace, ref.name)
        try:
            await self._request("DELETE", path, body=body)
        except KubeError as error:
            if error.status not in {404, 409}:
                raise

    async def annotate_pod(self, namespace: str, name: str, uid: str, value: str) -> None:
        """See ``Cluster``. Kubelets look at what a pod mounts when the pod changes."""
        # With the uid, a pod that has gone is a conflict instead of a new one.
        annotations = {names.CONFIGURATION: value}
        metadata = {"name": name, "namespace": namespace, "uid": uid, "annotations": annotations}
        await self._request(
            "PATCH",
            object_path("v1", "Pod", namespace, name),
            query={"fieldManager": names.POD_FIELD_MANAGER, "force": "true"},
            body={"apiVersion": "v1", "kind": "Pod", "metadata": metadata},
            content_type="application/apply-patch+yaml",
        )

    async def set_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """See ``Cluster``."""
        path = object_path(names.API_VERSION, names.KIND, namespace, name) + "/status"
        try:
            await self._request(
                "PATCH",
                path,
                query={"fieldManager": names.FIELD_MANAGER},
                body=[{"op": "add", "path": "/status", "value": status}],
                content_type="application/json-patch+json",
            )
        except KubeError as error:
            if error.status != 404:
                raise

    async def say(self, broker: Manifest, kind: str, reason: str, message: str) -> None:
        """See ``Cluster``. An event that is refused is not worth a failure."""
        metadata = broker["metadata"]
        namespace = metadata["namespace"]
        moment = _now()
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata['name']}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
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
            await self._request("POST", collection_path("v1", "Event", namespace), body=event)
        except KubeError as error:
            log.warning("an event was refused", extra={"reason": str(error)})

    async def optional_kinds(self) -> frozenset[str]:
        """See ``Cluster``. Asked again from time to time: CRDs come and go."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._kinds_until_s:
            found = await asyncio.gather(*(self._knows(api, kind) for api, kind in OPTIONAL_KINDS))
            self._kinds = frozenset(
                kind for (_, kind), known in zip(OPTIONAL_KINDS, found, strict=True) if known
            )
            self._kinds_until_s = now_s + KINDS_S
        return self._kinds

    async def _knows(self, api_version: str, kind: str) -> bool:
        try:
            found = await self._request("GET", f"apis/{api_version}")
        except KubeError as error:
            if error.status in {403, 404}:
                return False
            raise
        return any(one.get("kind") == kind for one in found.get("resources") or [])

    async def changes(
        self, api_version: str, kind: str, namespace: str, selector: str
    ) -> AsyncGenerator[Manifest | None, None]:
        """Yield the metadata of objects of a kind as they change, for ever.

        ``selector`` is of labels; "" is everything.

        None means: from here on; what has happened before is not told, at the beginning and when
        the server has forgotten where we were. Raises KubeError and KubeUnavailable.
        """
        path = collection_path(api_version, kind, namespace)
        version = ""
        while True:
            if not version:
                version = await self._newest(path)
                yield None
            async with contextlib.aclosing(self._events(path, version, selector)) as events:
                async for event in events:
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield event["object"]

    async def follow(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        selector: str,
        keep: Callable[[Manifest], Manifest],
    ) -> AsyncGenerator[Listed | Event, None]:
        """Yield all objects of a kind, and then what happens to them, for ever.

        ``keep`` takes out of each what is wanted: of a large cluster the rest is too much at once.
        They are listed again when the server has forgotten where we were. Raises KubeError and
        KubeUnavailable.
        """
        path = collection_path(api_version, kind, namespace)
        version = ""
        while True:
            if not version:
                found = await self._listed(api_version, kind, namespace, selector, keep)
                version = found.version
                yield found
            whole = "application/json"
            async with contextlib.aclosing(self._events(path, version, selector, whole)) as events:
                async for event in events:
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    one = {"apiVersion": api_version, "kind": kind} | event["object"]
                    version = one["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        yield Event(keep(one), event["type"] == "DELETED")

    async def _events(
        self, path: str, version: str, selector: str, accepted: str = _METADATA_ONLY
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the events of one watch until the server ends it."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_S),
            "resourceVersion": version,
        } | ({"labelSelector": selector} if selector else {})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_S + 30)
        headers = {"Accept": accepted}
        try:
            async with self._http.get(
                path, params=query, headers=headers, timeout=timeout
            ) as answer:
                self.answers["WATCH", str(answer.status)] += 1
                if answer.status == 410:
                    yield {"type": "ERROR"}
                    return
                await _check(answer)
                buffer = b""
                async for chunk in answer.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in lines:
                        yield json.loads(line)
                    if len(buffer) > _MAX_LINE_BYTES:
                        yield {"type": "ERROR"}
                        return
        except _NO_ANSWER as error:
            raise KubeUnavailable(f"the watch has ended: {error!r}") from error

    async def _newest(self, path: str) -> str:
        found = await self._request("GET", path, query={"limit": "1"})
        return str(found["metadata"]["resourceVersion"])

    # HTTP

    @property
    def _http(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def _list(
        self, api_version: str, kind: str, namespace: str, selector: str
    ) -> list[Manifest]:
        return (await self._listed(api_version, kind, namespace, selector)).objects

    async def _listed(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        selector: str,
        keep: Callable[[Manifest], Manifest] = lambda one: one,
    ) -> Listed:
        path = collection_path(api_version, kind, namespace)
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        found: list[Manifest] = []
        while True:
            page = await self._request("GET", path, query=query)
            # Items of a list say neither of what kind they are.
            found += [
                keep({"apiVersion": api_version, "kind": kind} | item) for item in page["items"]
            ]
            token = page["metadata"].get("continue")
            if not token:
                return Listed(found, page["metadata"].get("resourceVersion", ""))
            query["continue"] = token

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        session = self._http
        try:
            return await self._try(method, path, query, body, content_type)
        except KubeError as error:
            if error.status != 401:
                raise
        # Tokens of ServiceAccounts are replaced every hour.
        await self._log_in_again(session)
        return await self._try(method, path, query, body, content_type)

    async def _try(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
    ) -> dict[str, Any]:
        self.request_count += 1
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        if payload is not None:
            headers["Content-Type"] = content_type
        try:
            async with self._http.request(
                method, path, params=query, data=payload, headers=headers
            ) as answer:
                self.answers[method, str(answer.status)] += 1
                await _check(answer)
                found: dict[str, Any] = await answer.json(content_type=None)
                return found
        except _NO_ANSWER as error:
            self.answers[method, "none"] += 1
            raise KubeUnavailable(f"the API server cannot be reached: {error!r}") from error


async def _check(answer: aiohttp.ClientResponse) -> None:
    """Raise what an answer that is not good means."""
    if answer.status < 400:
        return
    text = await answer.text(errors="replace")
    try:
        message = str(json.loads(text)["message"])
    except (ValueError, LookupError, TypeError):
        message = text.strip() or answer.reason or str(answer.status)
    if answer.status == 500 and message.startswith(_NOT_IN_SCHEMA):
        raise KubeError(422, message)
    if answer.status == 429 or answer.status >= 500:
        raise KubeUnavailable(message)
    raise KubeError(answer.status, message)


# Paths


def collection_path(api_version: str, kind: str, namespace: str) -> str:
    """Return where objects of a kind are listed; "" as namespace means all of them."""
    root = f"api/{api_version}" if "/" not in api_version else f"apis/{api_version}"
    place = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{place}/{_PLURALS[kind]}"


def object_path(api_version: str, kind: str, namespace: str, name: str) -> str:
    """Return where one object is."""
    return f"{collection_path(api_version, kind, namespace)}/{quote(name)}"


# Logging in


def tls_context(connection: kopf.ConnectionInfo) -> ssl.SSLContext | bool:
    """Return how the API server is recognised, and how we show who we are."""
    if not connection.server.startswith("https"):
        return True
    ca_data = _pem(connection.ca_data)
    context = ssl.create_default_context(
        cafile=None if connection.ca_path is None else str(connection.ca_path), cadata=ca_data
    )
    if connection.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = connection.certificate_path, connection.private_key_path
    if certificate is not None:
        context.load_cert_chain(str(certificate), None if key is None else str(key))
    elif connection.certificate_data is not None and connection.private_key_data is not None:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "client.pem"
            file.touch(mode=0o600)
            file.write_text(
                f"{_pem(connection.certificate_data)}\n{_pem(connection.private_key_data)}"
            )
            context.load_cert_chain(file)
    return context


def _pem(data: str | bytes | None) -> str | None:
    """Return data of a kubeconfig, which is PEM or PEM in base64."""
    if data is None:
        return None
    text = data.decode() if isinstance(data, bytes) else data
    return text if "-----BEGIN" in text else base64.b64decode(text).decode()


def _now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
