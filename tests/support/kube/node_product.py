"""The product on a node under test: the operator by the chart, and a broker, as users see them."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from support import helm, processes
from support.kube.node import Node
from support.kube.node_api import ApiError, Manifest, is_ready, path_of
from support.kube.node_images import ROOT, Image
from support.waiting import wait_for
from tidegate_operator import names

CHART: Final = ROOT / "charts" / "tidegate"
RELEASE: Final = "tidegate"
SYSTEM: Final = "tidegate-system"
#: Small, so that a machine of two cores has room for many.
SMALL: Final[Manifest] = {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
PATIENCE_S: Final = 60.0
#: Where clients connect, all of them.
CLIENT_PORT: Final = 443


@dataclass(slots=True, frozen=True)
class PodSeen:
    """What of a pod must not change while nothing asks for a restart."""

    name: str
    uid: str
    started: str
    restarts: int


def broker_spec() -> Manifest:
    """Return a spec with one port for everything; its certificate is for whatever address it gets
    from the cloud."""
    return {
        "listeners": [{"name": "mqtt", "protocol": "auto", "tls": {"selfSigned": True}}],
        "service": {"type": "LoadBalancer"},
        "auth": {"allowAnonymous": True},
        "limits": {"maxQueuedMessages": 1_000_000},
        "edge": {
            "replicas": 1,
            "resources": SMALL,
            "drain": {"delaySeconds": 1, "deadlineSeconds": 10},
        },
        "router": {"replicas": 1, "resources": SMALL},
        "redis": {"bundled": {"resources": SMALL, "storage": {"size": "1Gi"}}},
    }


class Operator:
    """The operator, installed with helm."""

    def __init__(self, node: Node, image: Image) -> None:
        self.node = node
        self.image = image

    def install(self, *more: str, command: str = "install") -> None:
        """Install (or ``upgrade``) the chart and wait until the operator is ready."""
        repository, _, tag = self.image.name.rpartition(":")
        given = (f"image.repository={repository}", f"image.tag={tag}", *more)
        try:
            self.node.helm(
                *(command, RELEASE, CHART, "--namespace", SYSTEM, "--wait", "--timeout", "90s"),
                *(word for one in given for word in _value(one)),
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def uninstall(self) -> None:
        """Uninstall the chart and wait until it is gone."""
        self.node.helm("uninstall", RELEASE, "--namespace", SYSTEM, "--wait", "--timeout", "60s")

    def pods(self) -> list[Manifest]:
        """Return the operator's pods."""
        return self.node.api.list("v1", "Pod", SYSTEM, f"{names.COMPONENT_LABEL}=operator")

    def log(self) -> str:
        """Return what the operator has written."""
        pods = [one["metadata"]["name"] for one in self.pods()]
        logs = [self.node.kubectl("logs", "--namespace", SYSTEM, pod, check=False) for pod in pods]
        return "\n".join([f"{len(logs)} pods of the operator", *logs])


class Broker:
    """One MqttBroker and everything that it consists of."""

    def __init__(self, node: Node, namespace: str, name: str, spec: Manifest) -> None:
        self.node = node
        self.namespace = namespace
        self.name = name
        self.spec = spec
        #: How long it took to become ready, in seconds.
        self.ready_s = 0.0

    def apply(self) -> None:
        """Say what is wanted: ``spec``, and nothing that was changed meanwhile."""
        path = path_of(names.API_VERSION, names.KIND, self.namespace, self.name)
        with contextlib.suppress(ApiError):
            replace = [{"op": "replace", "path": "/spec", "value": self.spec}]
            self.node.api.request("PATCH", path, replace, "application/json-patch+json")
            return
        self.node.api.apply(
            {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "metadata": {"namespace": self.namespace, "name": self.name},
                "spec": self.spec,
            }
        )

    def change(self, spec: Manifest) -> int:
        """Change a part of the spec by a merge patch; return the new generation."""
        path = path_of(names.API_VERSION, names.KIND, self.namespace, self.name)
        found = self.node.api.patch(path, {"spec": spec})
        self.spec = found["spec"]
        generation: int = found["metadata"]["generation"]
        return generation

    def read(self) -> Manifest:
        """Return the MqttBroker."""
        found = self.node.api.read(names.API_VERSION, names.KIND, self.namespace, self.name)
        assert found is not None
        return found

    def condition(self, kind: str) -> Manifest:
        """Return one of its conditions, or an empty one."""
        conditions = self.read().get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == kind), {"status": ""})

    def wait_until(
        self, what: str, met: Callable[[Manifest], bool], deadline_s: float = PATIENCE_S
    ) -> Manifest:
        """Wait until the resource fulfils a condition; return it."""
        seen: list[Manifest] = []

        def look() -> bool:
            seen[:] = [self.read()]
            return met(seen[0])

        try:
            wait_for(look, deadline_s, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.story()}") from None
        return seen[0]

    def wait_until_settled(self, deadline_s: float = PATIENCE_S) -> Manifest:
        """Wait until all that is wanted now is there, and nothing moves any more."""
        return self.wait_until("the broker has settled", is_settled, deadline_s)

    def address(self) -> str:
        """Return where clients connect from outside, once the node forwards to an edge."""
        address: str = self.wait_until("an address", lambda one: bool(_ingress(self)))["status"][
            "address"
        ]
        address = address.rpartition(":")[0] or address
        self.wait_until_forwarded(address, CLIENT_PORT)
        return address

    def service_address(self, name: str, port: int) -> str:
        """Return the address of a Service within the cluster, once the node forwards to a pod."""
        where = ("--namespace", self.namespace, "--output", "jsonpath={.spec.clusterIP}")
        address = self.node.kubectl("get", "service", name, *where)
        self.wait_until_forwarded(address, port)
        return address

    def wait_until_forwarded(self, address: str, port: int) -> None:
        """Return when a Service accepts connections: a node learns of a ready pod as others do."""

        def accepts() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection((address, port), PATIENCE_S).close()
                return True
            return False

        wait_for(accepts, PATIENCE_S, f"port {port} of {address} ({self.name}) is forwarded")

    def pods(self, component: str) -> list[Manifest]:
        """Return the pods of a component that are not about to go."""
        selector = f"{names.INSTANCE_LABEL}={self.name},{names.COMPONENT_LABEL}={component}"
        found = self.node.api.list("v1", "Pod", self.namespace, selector)
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def seen(self, *components: str) -> set[PodSeen]:
        """Return what of the pods stays as it is while nothing is restarted."""
        return {
            PodSeen(
                pod["metadata"]["name"],
                pod["metadata"]["uid"],
                status["state"].get("running", {}).get("startedAt", ""),
                status["restartCount"],
            )
            for component in components
            for pod in self.pods(component)
            for status in pod["status"].get("containerStatuses", ())
        }

    def kill_pod(self, component: str, number: int = 0) -> str:
        """Delete a pod as ``kubectl delete pod --force --grace-period=0`` does; its name."""
        pods = sorted(self.pods(component), key=lambda pod: str(pod["metadata"]["name"]))
        name: str = pods[number % len(pods)]["metadata"]["name"]
        self.node.kubectl(
            *("delete", "pod", name, "--namespace", self.namespace),
            *("--force", "--grace-period=0", "--wait=false"),
        )
        return name

    def nodes(self, component: str) -> list[str]:
        """Return the nodes that its pods are on, one for each pod."""
        return sorted(str(pod["spec"].get("nodeName", "")) for pod in self.pods(component))

    def ready_pods(self, component: str) -> int:
        """Return how many of its pods are ready."""
        return sum(is_ready(pod) for pod in self.pods(component))

    def told(self, reason: str) -> list[str]:
        """Return the messages of the warnings that were given for a reason."""
        found = self.node.api.list("v1", "Event", self.namespace)
        return [
            str(one["message"])
            for one in found
            if one["type"] == "Warning"
            and one["reason"] == reason
            and one["involvedObject"]["name"] == self.name
        ]

    def authority(self) -> str:
        """Return the certificates that clients trust, as PEM, from the ConfigMap NAME-ca."""
        found = self.node.api.read(
            "v1", "ConfigMap", self.namespace, names.authorities_map(self.name)
        )
        assert found is not None
        return str(found["data"]["ca.crt"])

    def client_tls(self) -> ssl.SSLContext:
        """Return what a client uses that trusts the authority and checks everything."""
        return ssl.create_default_context(cadata=self.authority())

    def secret(self, name: str, data: dict[str, bytes]) -> None:
        """Make or change a Secret beside it."""
        self.node.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"namespace": self.namespace, "name": name},
                "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
            }
        )

    def delete(self) -> None:
        """Delete it and wait until all its pods are gone."""
        self.node.kubectl(
            *("delete", "mqttbroker", self.name, "--namespace", self.namespace),
            *("--cascade=foreground", "--timeout=60s"),
        )

    def story(self) -> str:
        """Tell how everything is: for a test that fails."""
        with contextlib.suppress(AssertionError):
            lines = [
                f"{one['type']}={one['status']} {one['reason']}: {one['message']}"
                for one in self.read().get("status", {}).get("conditions", [])
            ]
            place = ("--namespace", self.namespace)
            lines.append(self.node.kubectl("get", "pods", "-o", "wide", *place))
            lines.append(self.node.kubectl("get", "events", *place)[-4000:])
            for pod in self.node.api.list("v1", "Pod", self.namespace):
                name = pod["metadata"]["name"]
                lines += [f"--- {name}", self._log_of(name, "--tail=8")]
            return "\n".join(lines)
        return "nothing can be told"

    def _log_of(self, pod: str, *more: str) -> str:
        """Return the log of a pod; its node may be lost."""
        words = ("logs", pod, "--namespace", self.namespace, *more)
        return self.node.kubectl(*words, check=False, timeout_s=15.0)

    def keep_logs(self, directory: Path) -> None:
        """Write the logs of all pods that are there."""
        for pod in self.node.api.list("v1", "Pod", self.namespace):
            name = pod["metadata"]["name"]
            said = self._log_of(name)
            (directory / f"{name}.log").write_text(said)


@contextlib.contextmanager
def ends_of_containers(broker: Broker) -> Iterator[Callable[[], dict[str, int]]]:
    """Watch how a broker's containers end; yield a function that returns exit codes by pod.

    Of a pod that is deleted by force nothing is seen.
    """
    with tempfile.TemporaryFile("w+") as seen:
        watch = processes.start(
            [
                *(str(helm.program("kubectl")), "--kubeconfig", str(broker.node.kubeconfig)),
                *("get", "pods", "--namespace", broker.namespace, "--watch", "-o", "json"),
                *("--selector", f"app.kubernetes.io/instance={broker.name}"),
            ],
            stdout=seen,
            stderr=subprocess.DEVNULL,
        )

        def codes() -> dict[str, int]:
            seen.seek(0)
            return dict(_exit_codes(seen.read()))

        try:
            yield codes
        finally:
            watch.terminate()
            watch.wait()


def _exit_codes(text: str) -> Iterator[tuple[str, int]]:
    """Yield what a series of JSON documents, the last one perhaps cut off, says of ends."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            pod, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        at += 1
        for status in pod.get("status", {}).get("containerStatuses", ()):
            ended = status["state"].get("terminated")
            if ended is not None:
                yield pod["metadata"]["name"], ended["exitCode"]


def is_settled(broker: Manifest) -> bool:
    """Whether the status says that what is wanted is there: Ready, Complete, Applied."""
    status = broker.get("status", {})
    if status.get("observedGeneration") != broker["metadata"]["generation"]:
        return False
    wanted = {
        "Ready": "True",
        "Progressing": "False",
        "Degraded": "False",
        "CertificatesReady": "True",
        "ConfigApplied": "True",
    }
    found = {one["type"]: one["status"] for one in status.get("conditions", [])}
    return wanted.items() <= found.items()


def _value(given: str) -> tuple[str, str]:
    """Return how helm is told a value: text, or JSON."""
    return "--set-json" if given.endswith(("}", "true", "false")) else "--set-string", given


def _ingress(broker: Broker) -> list[Any]:
    service = broker.node.api.read("v1", "Service", broker.namespace, broker.name)
    status = (service or {}).get("status", {})
    return list(status.get("loadBalancer", {}).get("ingress", ()))


def measured(work: Callable[[], Any]) -> float:
    """Run it and return the seconds that it took."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def same(before: set[PodSeen], after: set[PodSeen], but: Sequence[str] = ()) -> None:
    """Assert that these pods run on as they were."""
    wanted = {pod for pod in before if pod.name not in but}
    assert wanted <= after, f"restarted or gone: {wanted - after}; there is {after}"
