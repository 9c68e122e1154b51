"""The machines of a cluster under test: each has a network, a containerd, a kubelet, a kube-proxy.

The control plane and the tests are on one more network, the switch between all of them, and are no
node: so every machine can be lost. ``support.kube.node_keeper`` starts and loses them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support.kube import node_images
from support.kube.node_settings import (
    ADDRESS,
    CGROUP,
    DNS_SERVICE,
    ETHERNET,
    ROUTED_PODS,
    SWITCH,
    Places,
    Programs,
)

#: Of a kubelet that may be lost (it is renewed four times as often); see ``node_settings.LOST_S``.
_LEASE_S: Final = 16
#: Where a kube-proxy says, on loopback, that it has done its work.
PROXY_HEALTH: Final = 10256
_PROGRAMS: Final = ("containerd", "kubelet", "proxy")


@dataclass(slots=True, frozen=True)
class Machine:
    """One machine. ``number`` counts from 1, and is in all of its addresses."""

    number: int
    places: Places

    @property
    def name(self) -> str:
        """Its node's name."""
        return f"node{self.number}"

    @property
    def address(self) -> str:
        """Its address among the machines."""
        return f"10.200.0.{10 + self.number}"

    @property
    def ethernet(self) -> str:
        """Its network interface's address: neighbours have it by heart, so that packets to a lost
        machine vanish, as in a network with routers between, and are not refused."""
        return f"{ETHERNET}{self.number:02x}"

    @property
    def pods(self) -> str:
        """The addresses of its pods."""
        return f"10.244.{self.number}.0/24"

    @property
    def directory(self) -> Path:
        """Everything that is on its disk; it is in the command line of all that it runs."""
        return self.places.work / self.name

    @property
    def containerd_socket(self) -> Path:
        """Where its containerd listens."""
        return self.directory / "containerd.sock"

    @property
    def cgroup(self) -> str:
        """The parent of its pods' control groups."""
        return f"{CGROUP}/{self.name}"

    @property
    def interface(self) -> str:
        """Its end of the cable at the switch: without it, the machine is cut off."""
        return f"port{self.number}"

    def programs(self) -> list[str]:
        """Return the names of the processes that it runs."""
        return [f"{program}-{self.name}" for program in _PROGRAMS]

    def write(self, programs: Programs, *, alone: bool) -> None:
        """Write the files that the command lines name."""
        for name in ("cni.d", "pods"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "resolv.conf").write_text(f"nameserver {DNS_SERVICE}\n")
        (self.directory / "containerd.toml").write_text(self._containerd(programs))
        (self.directory / "cni.d" / "pods.conflist").write_text(json.dumps(self._cni()))
        (self.directory / "kubelet.json").write_text(json.dumps(self._kubelet(alone=alone)))

    def cables(self, namespace: str) -> list[str]:
        """Return arguments of ``ip`` that connect its namespace with the switch, from there."""
        return [
            f"link add {self.interface} type veth peer name eth0 netns {namespace}",
            f"link set {self.interface} master {SWITCH}",
            f"link set {self.interface} up",
            f"route add {self.pods} via {self.address}",
            f"neigh add {self.address} lladdr {self.ethernet} dev {SWITCH} nud permanent",
        ]

    def network(self, others: list[Machine]) -> list[str]:
        """Return arguments of ``ip`` that set up its own end."""
        found = [
            "link set lo up",
            f"link set eth0 address {self.ethernet}",
            f"addr add {self.address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {ADDRESS}",
            f"neigh add {ADDRESS} lladdr {ETHERNET}00 dev eth0 nud permanent",
        ]
        for other in others:
            found += [
                f"route add {other.pods} via {other.address}",
                f"neigh add {other.address} lladdr {other.ethernet} dev eth0 nud permanent",
            ]
        return found

    def containerd(self, programs: Programs) -> list[str]:
        """What runs containers."""
        config = self.directory / "containerd.toml"
        return [f"{programs.containerd}/containerd", "--config", str(config)]

    def ctr(self, programs: Programs) -> list[str]:
        """The command that asks its containerd."""
        return [
            *(f"{programs.containerd}/ctr", "--address", str(self.containerd_socket)),
            *("--namespace", "k8s.io"),
        ]

    def kubelet(self, programs: Programs) -> list[str]:
        """The node's agent."""
        return [
            *(programs.kube("kubelet"), f"--config={self.directory}/kubelet.json"),
            f"--kubeconfig={self.places.kubeconfig(f'kubelet-{self.name}')}",
            *(f"--hostname-override={self.name}", f"--node-ip={self.address}"),
            f"--root-dir={self.directory}/kubelet",
            f"--cert-dir={self.directory}/kubelet-keys",
        ]

    def proxy(self, programs: Programs) -> list[str]:
        """What makes the addresses of Services work on it."""
        return proxy(programs, self.places, self.name, self.address)

    def _containerd(self, programs: Programs) -> str:
        return f"""
version = 3
root = "{self.directory}/containerd"
state = "{self.directory}/run"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "{self.containerd_socket}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{node_images.PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{programs.cni}"]
    conf_dir = "{self.directory}/cni.d"
"""

    def _cni(self) -> dict[str, Any]:
        address_management = {
            "type": "host-local",
            "ranges": [[{"subnet": self.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.directory / "addresses"),
        }
        bridge = {
            "type": "bridge",
            "bridge": "pods0",
            "isGateway": True,
            "hairpinMode": True,
            "ipam": address_management,
        }
        ports = {"type": "portmap", "capabilities": {"portMappings": True}}
        return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, ports]}

    def _kubelet(self, *, alone: bool) -> dict[str, Any]:
        keys = self.places.keys
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(keys / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "address": self.address,
            "healthzBindAddress": "127.0.0.1",
            "tlsCertFile": str(keys / f"kubelet-{self.name}.crt"),
            "tlsPrivateKeyFile": str(keys / f"kubelet-{self.name}.key"),
            "containerRuntimeEndpoint": f"unix://{self.containerd_socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cgroup}",
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
            "resolvConf": str(self.directory / "resolv.conf"),
            "volumePluginDir": str(self.directory / "plugins"),
            "podLogsDir": str(self.directory / "pods"),
            "shutdownGracePeriod": "0s",
            **({} if alone else {"nodeLeaseDurationSeconds": _LEASE_S}),
        }


def proxy(programs: Programs, places: Places, node: str, address: str) -> list[str]:
    """Return kube-proxy for a network; ``node`` says whose pods are near."""
    return [
        *(programs.kube("kube-proxy"), f"--kubeconfig={places.kubeconfig('proxy')}"),
        *("--proxy-mode=iptables", f"--hostname-override={node}", f"--cluster-cidr={ROUTED_PODS}"),
        *("--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0"),
        *("--conntrack-tcp-timeout-close-wait=0", f"--bind-address={address}"),
        f"--healthz-bind-address=127.0.0.1:{PROXY_HEALTH}",
        "--metrics-bind-address=127.0.0.1:10249",
    ]
