"""A small client of an API server for tests: synchronous, plain dictionaries, no models.

Everything is verified (TLS, rights); what the server refuses is raised as ``Refused`` with its own
sentence. An ``Api`` may be used from several threads.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode, urlsplit

#: An object as the server has it.
Object: TypeAlias = dict[str, Any]

#: By kind: API version and name in paths.
KINDS: Final[dict[str, tuple[str, str]]] = {
    "ConfigMap": ("v1", "configmaps"),
    "Event": ("v1", "events"),
    "Namespace": ("v1", "namespaces"),
    "Node": ("v1", "nodes"),
    "PersistentVolume": ("v1", "persistentvolumes"),
    "PersistentVolumeClaim": ("v1", "persistentvolumeclaims"),
    "Pod": ("v1", "pods"),
    "ResourceQuota": ("v1", "resourcequotas"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    "ServiceAccount": ("v1", "serviceaccounts"),
    "ControllerRevision": ("apps/v1", "controllerrevisions"),
    "Deployment": ("apps/v1", "deployments"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "HorizontalPodAutoscaler": ("autoscaling/v2", "horizontalpodautoscalers"),
    "Certificate": ("cert-manager.io/v1", "certificates"),
    "ServiceMonitor": ("monitoring.coreos.com/v1", "servicemonitors"),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", "httproutes"),
    "TLSRoute": ("gateway.networking.k8s.io/v1", "tlsroutes"),
    "TCPRoute": ("gateway.networking.k8s.io/v1alpha2", "tcproutes"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": ("policy/v1", "poddisruptionbudgets"),
    "ClusterRole": ("rbac.authorization.k8s.io/v1", "clusterroles"),
    "ClusterRoleBinding": ("rbac.authorization.k8s.io/v1", "clusterrolebindings"),
    "Role": ("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("rbac.authorization.k8s.io/v1", "rolebindings"),
    "PriorityClass": ("scheduling.k8s.io/v1", "priorityclasses"),
    "StorageClass": ("storage.k8s.io/v1", "storageclasses"),
    "EndpointSlice": ("discovery.k8s.io/v1", "endpointslices"),
    "CustomResourceDefinition": ("apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "ValidatingAdmissionPolicy": (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicies",
    ),
    "ValidatingAdmissionPolicyBinding": (
        "admissionregistration.k8s.io/v1",
        "validatingadmissionpolicybindings",
    ),
    "ValidatingWebhookConfiguration": (
        "admissionregistration.k8s.io/v1",
        "validatingwebhookconfigurations",
    ),
    "Job": ("batch/v1", "jobs"),
    "CronJob": ("batch/v1", "cronjobs"),
    "MqttBroker": ("tidegate.io/v1alpha1", "mqttbrokers"),
    "MqttBackup": ("tidegate.io/v1alpha1", "mqttbackups"),
}
_TIMEOUT_S: Final = 30.0
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"


class Refused(Exception):
    """The server says no. ``status`` is HTTP's, ``reason`` one word of the API's own."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def path_of(kind: str, namespace: str = "", name: str = "", part: str = "") -> str:
    """Return the path of a kind, an object, or a part of it (status, scale)."""
    version, plural = KINDS[kind]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    place = f"/namespaces/{quote(namespace)}" if namespace else ""
    return f"{root}{place}/{plural}" + "".join(f"/{quote(one)}" for one in (name, part) if one)


class Api:
    """See the module's docstring. ``user_agent`` is how the audit log tells clients apart."""

    def __init__(self, url: str, authority: Path, token: str, user_agent: str = "test") -> None:
        self.url = url
        self._address = urlsplit(url)
        self._context = ssl.create_default_context(cafile=str(authority))
        self._headers = {"Authorization": f"Bearer {token}", "User-Agent": user_agent}
        self._local = threading.local()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Return the answer. Raises Refused, and OSError if the server cannot be reached."""
        if query:
            path = f"{path}?{urlencode(query)}"
        payload = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if payload is None else {"Content-Type": content_type})
        try:
            status, text = self._exchange(method, path, payload, headers)
        except (http.client.HTTPException, OSError):
            # A connection that had been idle: the server may have closed it.
            self.close()
            status, text = self._exchange(method, path, payload, headers)
        try:
            found = json.loads(text)
        except ValueError:
            found = text.decode(errors="replace")
        if status >= 400:
            details = found if isinstance(found, dict) else {}
            raise Refused(status, details.get("reason", ""), details.get("message") or str(found))
        return found

    def _exchange(
        self, method: str, path: str, payload: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            host, port = self._address.hostname or "", self._address.port
            connection = http.client.HTTPSConnection(
                host, port, context=self._context, timeout=_TIMEOUT_S
            )
            self._local.connection = connection
        connection.request(method, path, payload, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        """Close this thread's connection."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    # Objects

    def get(self, kind: str, name: str, namespace: str = "") -> Object | None:
        """Return an object, None if there is none."""
        try:
            found: Object = self.request("GET", path_of(kind, namespace, name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise
        return found

    def listed(self, kind: str, namespace: str = "", selector: str = "") -> list[Object]:
        """Return all objects of a kind, of one namespace or of all."""
        query = {"labelSelector": selector} if selector else {}
        found = self.request("GET", path_of(kind, namespace), query=query)
        version = KINDS[kind][0]
        return [{"apiVersion": version, "kind": kind} | one for one in found["items"]]

    def create(self, manifest: Object) -> Object:
        """Create an object."""
        metadata = manifest["metadata"]
        path = path_of(manifest["kind"], metadata.get("namespace", ""))
        query = {"fieldValidation": "Strict"}
        found: Object = self.request("POST", path, manifest, query)
        return found

    def apply(self, manifest: Object, manager: str = "kubectl", *, dry_run: bool = False) -> Object:
        """Apply on the server's side, as ``manager``."""
        metadata = manifest["metadata"]
        path = path_of(manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        query = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        found: Object = self.request("PATCH", path, manifest, query, _APPLY)
        return found

    def patch(
        self, kind: str, name: str, namespace: str, changes: Object, part: str = ""
    ) -> Object:
        """Merge changes into an object (or a part of it), as people and controllers do."""
        path = path_of(kind, namespace, name, part)
        found: Object = self.request("PATCH", path, changes, None, _MERGE)
        return found

    def replace(self, manifest: Object) -> Object:
        """Write a whole object."""
        metadata = manifest["metadata"]
        path = path_of(manifest["kind"], metadata.get("namespace", ""), metadata["name"])
        found: Object = self.request("PUT", path, manifest)
        return found

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object; one that has gone already is fine."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            self.request("DELETE", path_of(kind, namespace, name), body)
        except Refused as refused:
            if refused.status != 404:
                raise

    def token(self, namespace: str, account: str, seconds: int = 3600) -> str:
        """Return a token of a ServiceAccount, as its pods get one."""
        path = path_of("ServiceAccount", namespace, account, "token")
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        return str(self.request("POST", path, body)["status"]["token"])
