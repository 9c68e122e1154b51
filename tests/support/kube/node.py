"""A whole Kubernetes node for tests: real containers of the real image, in a network of its own.

Tests ask for the fixture ``node`` (tests/node/conftest.py). While it is there, the test process is
inside the node's network namespace, so that everything a test starts reaches Services and pods as a
neighbour would. ``support.kube.node_keeper`` starts and ends what runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import yaml

from support import helm, tools
from support.kube import binaries, containerd_programs, node_images
from support.kube.node_api import Api, Manifest
from support.kube.node_settings import Places, Programs
from support.kube.node_traces import enter

_TESTS: Final = Path(__file__).parents[2]
_CAP_SYS_ADMIN: Final = 21
_CAP_NET_ADMIN: Final = 12
#: Debian's programs, and what the container network is made of.
_TOOLS: Final = ("ip", "iptables", "runc", "conntrack", "mount", "umount")
_CNI: Final = ("/usr/lib/cni", "/opt/cni/bin")


class Node:
    """A node that runs. ``api`` asks its API server as an administrator."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.times: dict[str, float] = told["ready"]
        self.pids: dict[str, int] = told["pids"]
        #: The process that keeps it.
        self.keeper: int = told["keeper"]
        self.places = Places(Path(told["work"]))
        self.namespace = Path(told["namespace"])
        self.kubeconfig = Path(self.places.kubeconfig("admin"))
        self.api = Api(self.kubeconfig)

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Run kubectl and return what it says."""
        command = [str(helm.program("kubectl")), "--kubeconfig", str(self.kubeconfig)]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=120, check=False
        )
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
        """Give an image another name."""
        ctr = Path(containerd_programs.programs()) / "ctr"
        subprocess.run(
            [
                *(str(ctr), "--address", str(self.places.containerd_socket)),
                *("--namespace", "k8s.io", "images", "tag", image, name),
            ],
            capture_output=True,
            check=True,
        )

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
    for tool in _TOOLS:
        tools.require(tool)
    plugins = next((place for place in _CNI if Path(place, "bridge").exists()), None)
    return Programs(
        etcd=tools.require("etcd"),
        kubernetes=str(binaries.programs()),
        containerd=str(containerd_programs.programs()),
        cni=plugins or tools.missing("the container network plugins (bridge, host-local, portmap)"),
    )


@contextlib.contextmanager
def running(images: Sequence[node_images.Image]) -> Iterator[Node]:
    """Start a node with these images; yield it with this process inside its network."""
    job = {
        "programs": asdict(programs()),
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
            yield Node(told)
        finally:
            enter(Path(f"/proc/self/fd/{home.fileno()}"))
            # It takes everything away when this ends, however it ends.
            keeper.stdin.close()
            keeper.stdout.read()
            keeper.stdout.close()
            keeper.wait()


def _rights() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0
