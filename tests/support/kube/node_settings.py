"""What the programs of a node under test are told: command lines and configuration files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.kube import node_images

NODE: Final = "node1"
#: Of the node, in its own network namespace; everything listens here or on loopback.
ADDRESS: Final = "10.200.0.1"
SERVICES: Final = "10.96.0.0/16"
API_SERVICE: Final = "10.96.0.1"
DNS_SERVICE: Final = "10.96.0.10"
PODS: Final = "10.244.0.0/24"
#: Parent of all pods' control groups.
CGROUP: Final = "tidegate-node"
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
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.work / "containerd.sock"

    @property
    def volumes(self) -> Path:
        """What stands for disks."""
        return self.work / "volumes"

    def kubeconfig(self, user: str) -> str:
        """Return the file of a user."""
        return str(self.keys / f"{user}.kubeconfig")


def write(places: Places, programs: Programs) -> None:
    """Write the files that ``command_lines`` name."""
    for name in ("cni.d", "volumes", "log", "pods"):
        (places.work / name).mkdir(parents=True, exist_ok=True)
    (places.work / "resolv.conf").write_text(f"nameserver {DNS_SERVICE}\n")
    (places.work / "containerd.toml").write_text(_containerd(places, programs))
    (places.work / "cni.d" / "pods.conflist").write_text(json.dumps(_cni(places)))
    (places.work / "kubelet.json").write_text(json.dumps(_kubelet(places)))


def _containerd(places: Places, programs: Programs) -> str:
    work = places.work
    return f"""
version = 3
root = "{work}/containerd"
state = "{work}/run"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{places.containerd_socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{node_images.PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{programs.cni}"]
    conf_dir = "{work}/cni.d"
"""


def _cni(places: Places) -> dict[str, Any]:
    address_management = {
        "type": "host-local",
        "ranges": [[{"subnet": PODS}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(places.work / "addresses"),
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": address_management,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}


def _kubelet(places: Places) -> dict[str, Any]:
    keys, work = places.keys, places.work
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(keys / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "address": ADDRESS,
        "healthzBindAddress": "127.0.0.1",
        "tlsCertFile": str(keys / "kubelet.crt"),
        "tlsPrivateKeyFile": str(keys / "kubelet.key"),
        "containerRuntimeEndpoint": f"unix://{places.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{CGROUP}",
        "failCgroupV1": False,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        # Root may lack CAP_SYS_RESOURCE: nothing is raised.
        "maxOpenFiles": 20000,
        "oomScoreAdj": 0,
        "evictionHard": {"memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 100,
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": str(work / "resolv.conf"),
        "volumePluginDir": str(work / "plugins"),
        "podLogsDir": str(work / "pods"),
        "shutdownGracePeriod": "0s",
    }


def etcd(places: Places, programs: Programs) -> list[str]:
    """The store of the API server."""
    peers = "http://127.0.0.1:2380"
    return [
        *(programs.etcd, "--data-dir", str(places.work / "etcd"), "--unsafe-no-fsync"),
        *("--listen-client-urls", _ETCD, "--advertise-client-urls", _ETCD),
        *("--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers),
        *("--initial-cluster", f"default={peers}"),
    ]


def containerd(places: Places, programs: Programs) -> list[str]:
    """What runs containers."""
    return [f"{programs.containerd}/containerd", "--config", str(places.work / "containerd.toml")]


def api_server(places: Places, programs: Programs) -> list[str]:
    """The API server, with the authorization and the admission of a real cluster."""
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
    ]


def controller_manager(places: Places, programs: Programs) -> list[str]:
    """The controllers of everything that is built in."""
    keys, config = places.keys, places.kubeconfig("controller-manager")
    return [
        *(programs.kube("kube-controller-manager"), f"--kubeconfig={config}"),
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--service-account-private-key-file={keys}/accounts.key",
        f"--root-ca-file={keys}/ca.crt",
        *("--use-service-account-credentials=true", "--leader-elect=false"),
        "--bind-address=127.0.0.1",
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


def kubelet(places: Places, programs: Programs) -> list[str]:
    """The node's agent."""
    return [
        *(programs.kube("kubelet"), f"--config={places.work}/kubelet.json"),
        f"--kubeconfig={places.kubeconfig('kubelet')}",
        *(f"--hostname-override={NODE}", f"--node-ip={ADDRESS}"),
        f"--root-dir={places.work}/kubelet",
        f"--cert-dir={places.work}/kubelet-keys",
    ]


def proxy(places: Places, programs: Programs) -> list[str]:
    """What makes the addresses of Services work."""
    return [
        *(programs.kube("kube-proxy"), f"--kubeconfig={places.kubeconfig('proxy')}"),
        *("--proxy-mode=iptables", f"--hostname-override={NODE}", f"--cluster-cidr={PODS}"),
        *("--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"),
        *("--conntrack-tcp-timeout-close-wait=0", f"--bind-address={ADDRESS}"),
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
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
