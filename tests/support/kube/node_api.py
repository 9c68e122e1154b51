"""The API server as tests ask it: plain requests with a client certificate; blocking."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

Manifest = dict[str, Any]

_MANAGER: Final = "tidegate-tests"
_TIMEOUT_S: Final = 30.0
_PLURALS: Final = {"NetworkPolicy": "networkpolicies", "StorageClass": "storageclasses"}


class ApiError(Exception):
    """The API server refuses."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


def path_of(api_version: str, kind: str, namespace: str = "", name: str = "") -> str:
    """Return the path of an object, or of all of a kind."""
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    place = f"/namespaces/{namespace}" if namespace else ""
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    return f"{root}{place}/{plural}" + (f"/{name}" if name else "")


class Api:
    """Asks with the credentials of a kubeconfig file (one cluster, one user, files by path)."""

    def __init__(self, kubeconfig: Path) -> None:
        given = json.loads(kubeconfig.read_text(encoding="utf-8"))
        cluster, user = given["clusters"][0]["cluster"], given["users"][0]["user"]
        self._place = cluster["server"].removeprefix("https://")
        self._tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        self._tls.load_cert_chain(user["client-certificate"], user["client-key"])

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """Return the answer. Raises ApiError, OSError."""
        connection = http.client.HTTPSConnection(self._place, context=self._tls, timeout=_TIMEOUT_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": content_type})
            reply = connection.getresponse()
            answer = reply.read().decode()
        finally:
            connection.close()
        if reply.status >= 300:
            raise ApiError(reply.status, _message(answer))
        found: Manifest = json.loads(answer) if answer.startswith("{") else {"text": answer}
        return found

    def read(
        self, api_version: str, kind: str, namespace: str = "", name: str = ""
    ) -> Manifest | None:
        """Return an object, or None."""
        try:
            return self.request("GET", path_of(api_version, kind, namespace, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, api_version: str, kind: str, namespace: str = "", selector: str = ""
    ) -> list[Manifest]:
        """Return all of a kind."""
        query = "?" + urllib.parse.urlencode({"labelSelector": selector}) if selector else ""
        path = path_of(api_version, kind, namespace)
        items: list[Manifest] = self.request("GET", path + query)["items"]
        return items

    def apply(self, manifest: Manifest) -> Manifest:
        """Create or change an object by server-side apply."""
        metadata = manifest["metadata"]
        path = path_of(
            manifest["apiVersion"],
            manifest["kind"],
            metadata.get("namespace", ""),
            metadata["name"],
        )
        query = f"?fieldManager={_MANAGER}&force=true"
        return self.request("PATCH", path + query, manifest, "application/apply-patch+yaml")

    def patch(self, path: str, change: Mapping[str, Any]) -> Manifest:
        """Merge a change into an object (or into its status: a path that ends so)."""
        return self.request("PATCH", path, dict(change), "application/merge-patch+json")

    def delete(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        name: str,
        grace_s: int | None = None,
    ) -> None:
        """Delete an object, if it is there."""
        options: Manifest = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        try:
            self.request("DELETE", path_of(api_version, kind, namespace, name), options)
        except ApiError as error:
            if error.status != 404:
                raise

    def watch(self, api_version: str, kind: str) -> Iterator[tuple[str, Manifest]]:
        """Yield ("LIST", all of a kind) and then what happens to them, until the server ends it."""
        path = path_of(api_version, kind)
        listed = self.request("GET", path)
        yield "LIST", listed
        version = listed["metadata"]["resourceVersion"]
        connection = http.client.HTTPSConnection(self._place, context=self._tls)
        try:
            connection.request("GET", f"{path}?watch=1&resourceVersion={version}")
            for line in connection.getresponse():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                yield event["type"], event["object"]
        finally:
            connection.close()


def is_ready(one: Manifest) -> bool:
    """Whether a node or a pod says that it is ready."""
    conditions = one.get("status", {}).get("conditions", [])
    return any(it["type"] == "Ready" and it["status"] == "True" for it in conditions)


def secret_value(secret: Manifest, key: str) -> bytes:
    """Return what is in a Secret."""
    return base64.b64decode(secret["data"][key])


def _message(answer: str) -> str:
    try:
        found = json.loads(answer)
    except ValueError:
        return answer[:500]
    return str(found.get("message", answer))[:2000]
