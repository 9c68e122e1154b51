"""A whole Kubernetes for tests: real containers of the real image, in networks of their own.

Tests ask for the fixture ``node`` (tests/node/conftest.py), a cluster of one node, or for one of
several that may be lost. While it is there, the test process is inside the network of its control
plane, so that everything a test starts reaches Services and pods as a neighbour would.
``support.kube.node_keeper`` starts and ends what runs.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import yaml

from support import helm, tools
from support.kube import binaries, containerd_programs, node_images
from support.kube.node_api import Api, Manifest, is_ready
from support.kube.node_machine import Machine
from support.kube.node_settings import Places, Programs
from support.kube.node_traces import enter
from support.waiting import wait_for

_TESTS: Final = Path(__file__).parents[2]
_CAP_SYS_ADMIN: Final = 21
_CAP_NET_ADMIN: Final = 12
#: Debian's programs, by its packages, and what the container network is made of.
_TOOLS: Final = {
    "ip": "iproute2",
    "iptables": "iptables",
    "runc": "runc",
    "conntrack": "conntrack",
    "mount": "mount",
    "umount": "mount",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "etcd": "etcd-server",
}
_CNI: Final = ("/usr/lib/cni", "/opt/cni/bin")


class Node:
    """A cluster of one node or more. ``api`` asks its API server as an administrator."""

    def __init__(
        self, told: dict[str, Any], order: Callable[[dict[str, str]], None] = lambda _: None
    ) -> None:
        self._order = order
        #: The names of its nodes.
        self.names: list[str] = told["machines"]
        self.times: dict[str, float] = told["ready"]
        self.pids: dict[str, int] = told["pids"]
        #: The process that keeps it.
        self.keeper: int = told["keeper"]
        self.places = Places(Path(told["work"]))
        self.namespace = Path(told["namespace"])
        self.kubeconfig = Path(self.places.kubeconfig("admin"))
        self.api = Api(self.kubeconfig)

    def kubectl(self, *arguments: str, check: bool = True, timeout_s: float = 120.0) -> str:
        """Run kubectl and return what it says."""
        command = [str(helm.program("kubectl")), "--kubeconfig", str(self.kubeconfig)]
        try:
            done = subprocess.run(
                [*command, *arguments],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            assert not check, f"kubectl {arguments}: no answer within {timeout_s:.0f} s"
            return f"no answer within {timeout_s:.0f} s\n"
        assert not check or done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def helm(self, *arguments: str | Path) -> str:
        """Run helm and return what it says."""
        command = [str(helm.program()), "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            env={"HOME": str(self.places.work), "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"helm {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def tag(self, image: str, name: str) -> None:
        """Give an image another name, on the first node."""
        ctr = Machine(1, self.places).ctr(programs())
        subprocess.run([*ctr, "images", "tag", image, name], capture_output=True, check=True)

    def cut(self, name: str) -> None:
        """Cut a node's network: whatever is on it goes on, and nobody hears of it."""
        self._order({"do": "cut", "node": name})

    def kill(self, name: str) -> None:
        """Switch a node off: nothing of it is left but its disk, and nothing says good-bye."""
        self._order({"do": "kill", "node": name})

    def bring_back(self, name: str) -> None:
        """Connect a node, start what does not run there, and wait until it is as it was."""
        self._order({"do": "return", "node": name})
        self.kubectl("uncordon", name)

        def is_back() -> bool:
            found = self.api.read("v1", "Node", "", name) or {}
            return is_ready(found) and not found["spec"].get("taints")

        wait_for(is_back, 180, f"{name} is ready again")

    def log(self, program: str) -> str:
        """Return what a program of the node has written."""
        return (self.places.work / "log" / f"{program}.log").read_text(errors="replace")

    def resident_bytes(self) -> dict[str, int]:
        """Return how much memory each program of the node has."""
        found = {}
        for name, pid in self.pids.items():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    found[name] = int(line.split()[1]) * 1024
        return found

    def namespaced(self, name: str) -> None:
        """Make a namespace whose pods must be restricted, and wait for its account."""
        labels = {
            f"pod-security.kubernetes.io/{mode}": "restricted"
            for mode in ("enforce", "warn", "audit")
        }
        metadata: Manifest = {"name": name, "labels": labels}
        self.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})

    def apply_yaml(self, text: str) -> list[Manifest]:
        """Apply the documents of a YAML text."""
        return [self.api.apply(one) for one in yaml.safe_load_all(text) if one]


def programs() -> Programs:
    """Return the programs of a node; skip by name (CI: fail) if one or a right is missing."""
    rights = _rights()
    if os.geteuid() != 0 or not rights >> _CAP_SYS_ADMIN & rights >> _CAP_NET_ADMIN & 1:
        tools.missing("root with the capabilities to make namespaces, mounts and networks")
    absent = [tool for tool in _TOOLS if tools.find(tool) is None]
    if absent:
        packages = " ".join(sorted({_TOOLS[tool] for tool in absent}))
        tools.missing(f"{', '.join(absent)} (apt-get install --no-install-recommends {packages})")
    # No registry is reached from inside.
    for name in ("helm", "kubectl"):
        helm.program(name)
    plugins = next((place for place in _CNI if Path(place, "bridge").exists()), None)
    return Programs(
        etcd=tools.require("etcd"),
        kubernetes=str(binaries.programs()),
        containerd=str(containerd_programs.programs()),
        cni=plugins
        or tools.missing(
            "bridge, host-local, portmap (apt-get install containernetworking-plugins)"
        ),
    )


@contextlib.contextmanager
def running(images: Sequence[node_images.Image], machines: int = 1) -> Iterator[Node]:
    """Start a cluster with these images; yield it with this process inside its network.

    With more than one machine, one may be lost: see ``Node.cut`` and ``Node.kill``.
    """
    job = {
        "programs": asdict(programs()),
        "machines": machines,
        "images": [str(image.archive) for image in (node_images.pause(), *images)],
    }
    keeper = subprocess.Popen(
        [sys.executable, "-m", "support.kube.node_keeper", json.dumps(job)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(_TESTS)},
        start_new_session=True,
        text=True,
    )
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    outside = Path("/proc/self/ns/net")
    with outside.open() as home:
        try:
            told = json.loads(keeper.stdout.readline() or '{"error": "the keeper ended"}')
            assert "error" not in told, f"{told['error']}\n{told.get('logs')}"
            enter(Path(told["namespace"]))
            yield Node(told, functools.partial(_order, keeper.stdin, keeper.stdout))
        finally:
            enter(Path(f"/proc/self/fd/{home.fileno()}"))
            # It takes everything away when this ends, however it ends.
            keeper.stdin.close()
            keeper.stdout.read()
            keeper.stdout.close()
            keeper.wait()


def _order(to: IO[str], answers: IO[str], order: dict[str, str]) -> None:
    """Have the keeper do something. Raises AssertionError: it could not."""
    to.write(json.dumps(order) + "\n")
    to.flush()
    told = json.loads(answers.readline() or '{"error": "the keeper ended"}')
    assert "error" not in told, f"{order}: {told['error']}"


def _rights() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
