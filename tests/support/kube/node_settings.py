"""What the control plane of a node under test is told; ``node_machine`` has the machines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: Of the control plane, in its own network namespace; it listens here or on loopback.
ADDRESS: Final = "10.200.0.1"
#: The bridge between all machines; it has that address.
SWITCH: Final = "node0"
#: What the addresses of network interfaces begin with; the switch is 00.
ETHERNET: Final = "02:00:00:00:00:"
SERVICES: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
DNS_SERVICE: Final = "10.96.0.10"
ROUTED_PODS: Final = "10.244.0.0/16"
#: Parent of all machines' control groups.
CGROUP: Final = "tidegate-node"
#: After how long without its kubelet's lease a node counts as lost, where one may be lost: enough
#: for a machine that is busy.
LOST_S: Final = 20
_LOST: Final = ("not-ready", "unreachable")
#: How long pods then stay.
_AWAY_S: Final = 10
_ETCD: Final = "http://127.0.0.1:2379"


@dataclass(slots=True, frozen=True)
class Programs:
    """Where the programs are."""

    etcd: str
    kubernetes: str
    containerd: str
    cni: str

    def kube(self, name: str) -> str:
        """Return one of Kubernetes' programs."""
        return f"{self.kubernetes}/{name}"


@dataclass(slots=True, frozen=True)
class Places:
    """The directories of one node."""

    work: Path

    @property
    def keys(self) -> Path:
        """Keys, certificates, kubeconfigs."""
        return self.work / "keys"

    @property
    def volumes(self) -> Path:
        """What stands for disks."""
        return self.work / "volumes"

    def kubeconfig(self, user: str) -> str:
        """Return the file of a user."""
        return str(self.keys / f"{user}.kubeconfig")


def write(places: Places) -> None:
    """Make the directories of the control plane."""
    for name in ("volumes", "log"):
        (places.work / name).mkdir(parents=True, exist_ok=True)


def etcd(places: Places, programs: Programs) -> list[str]:
    """The store of the API server."""
    peers = "http://127.0.0.1:2380"
    return [
        *(programs.etcd, "--data-dir", str(places.work / "etcd"), "--unsafe-no-fsync"),
        *("--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        *("--initial-cluster", f"default={peers}"),
    ]


def api_server(places: Places, programs: Programs, *, quick: bool) -> list[str]:
    """The API server, with the authorization and the admission of a real cluster.

    ``quick``: pods leave a lost node soon; else after the five minutes that are usual.
    """
    keys = places.keys
    return [
        programs.kube("kube-apiserver"),
        *(f"--etcd-servers={_ETCD}", f"--bind-address={ADDRESS}"),
        *(f"--advertise-address={ADDRESS}", "--secure-port=6443"),
        f"--tls-cert-file={keys}/apiserver.crt",
        f"--tls-private-key-file={keys}/apiserver.key",
        f"--client-ca-file={keys}/ca.crt",
        f"--kubelet-client-certificate={keys}/apiserver-to-kubelet.crt",
        f"--kubelet-client-key={keys}/apiserver-to-kubelet.key",
        f"--kubelet-certificate-authority={keys}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys}/accounts.key",
        f"--service-account-signing-key-file={keys}/accounts.key",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        *(f"--default-{why}-toleration-seconds={_AWAY_S}" for why in _LOST if quick),
    ]


def controller_manager(places: Places, programs: Programs, *, quick: bool) -> list[str]:
    """The controllers of everything that is built in. ``quick``: a lost node is noticed soon."""
    keys, config = places.keys, places.kubeconfig("controller-manager")
    return [
        *(programs.kube("kube-controller-manager"), f"--kubeconfig={config}"),
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--service-account-private-key-file={keys}/accounts.key",
        f"--root-ca-file={keys}/ca.crt",
        *("--use-service-account-credentials=true", "--leader-elect=false"),
        "--bind-address=127.0.0.1",
        *([f"--node-monitor-grace-period={LOST_S}s"] if quick else []),
    ]


def scheduler(places: Places, programs: Programs) -> list[str]:
    """Who says where a pod runs."""
    config = places.kubeconfig("scheduler")
    return [
        *(programs.kube("kube-scheduler"), f"--kubeconfig={config}"),
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        *("--leader-elect=false", "--bind-address=127.0.0.1"),
    ]


def first_objects(storage_class: str, provisioner: str) -> list[dict[str, Any]]:
    """What every cluster has: the Service of the name server, and a class of volumes."""
    ports = [
        {"name": f"dns-{protocol.lower()}", "port": 53, "protocol": protocol}
        for protocol in ("UDP", "TCP")
    ]
    place = {"name": "kube-dns", "namespace": "kube-system"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": place,
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": place | {"labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [ADDRESS]}],
            "ports": ports,
        },
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": storage_class,
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": provisioner,
        },
    ]
