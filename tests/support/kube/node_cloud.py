"""What a cloud does around a node under test: names, load balancers' addresses, volumes.

``python -m support.kube.node_cloud KUBECONFIG ADDRESS VOLUMES`` runs in the node's network
namespace. Addresses of load balancers are routed by kube-proxy; volumes are directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from support.kube import dns
from support.kube.node_api import Api, ApiError, Manifest, path_of

#: The storage class that every claim gets that names none.
STORAGE_CLASS: Final = "local"
PROVISIONER: Final = "tidegate.invalid/local"
BALANCERS: Final = "10.201.0."
_PAUSE_S: Final = 0.5


class Cloud:
    """Keeps ``records`` up to date, and gives what is asked for."""

    def __init__(self, api: Api, volumes: Path) -> None:
        self.api = api
        self.records = dns.Records()
        self._volumes = volumes
        self._given: dict[dns.Name, str] = {}

    def follow(self, api_version: str, kind: str) -> None:
        """Watch a kind for ever."""
        while True:
            with contextlib.suppress(OSError, ApiError, ValueError):
                for event, found in self.api.watch(api_version, kind):
                    self._take(kind, event, found)
            time.sleep(_PAUSE_S)

    def _take(self, kind: str, event: str, found: Manifest) -> None:
        if event == "LIST":
            for one in found["items"]:
                self._take(kind, "ADDED", one)
            return
        key = (found["metadata"].get("namespace", ""), found["metadata"]["name"])
        known: dict[dns.Name, Any] = {}
        match kind:
            case "Service":
                known = self.records.services
            case "EndpointSlice":
                known = self.records.slices
        if event == "DELETED":
            known.pop(key, None)
            return
        known[key] = found
        if kind == "Service" and found["spec"].get("type") == "LoadBalancer":
            self._balance(key, found)
        if kind == "PersistentVolumeClaim":
            self._provision(found)

    def _balance(self, key: dns.Name, service: Manifest) -> None:
        if (service.get("status", {}).get("loadBalancer") or {}).get("ingress"):
            return
        address = self._given.setdefault(key, f"{BALANCERS}{len(self._given) + 1}")
        status = {"status": {"loadBalancer": {"ingress": [{"ip": address}]}}}
        self.api.patch(path_of("v1", "Service", *key) + "/status", status)

    def _provision(self, claim: Manifest) -> None:
        metadata, spec = claim["metadata"], claim["spec"]
        if spec.get("storageClassName") != STORAGE_CLASS or spec.get("volumeName"):
            return
        name = f"volume-{metadata['uid']}"
        place = self._volumes / name
        place.mkdir(exist_ok=True)
        term = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
        self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": spec["resources"]["requests"],
                    "accessModes": spec["accessModes"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": STORAGE_CLASS,
                    # Unlike hostPath it is given to the pod's group, as a cloud's disk is.
                    "local": {"path": str(place)},
                    "nodeAffinity": {
                        "required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
                    },
                    "claimRef": {
                        "apiVersion": "v1",
                        "kind": "PersistentVolumeClaim",
                        "namespace": metadata["namespace"],
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                    },
                },
            }
        )


def main(kubeconfig: str, address: str, volumes: str) -> None:
    """Run until killed."""
    cloud = Cloud(Api(Path(kubeconfig)), Path(volumes))
    for api_version, kind in (
        ("v1", "Service"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("v1", "PersistentVolumeClaim"),
    ):
        threading.Thread(target=cloud.follow, args=(api_version, kind), daemon=True).start()
    asyncio.run(dns.serve(address, cloud.records))


if __name__ == "__main__":
    main(*sys.argv[1:])
