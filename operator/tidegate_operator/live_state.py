"""What the cluster says of a broker, taken out of the objects of the API. Pure.

``reconcile`` reads the objects and hands these facts to ``conditions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from tidegate_operator import names
from tidegate_operator.spec.listeners import ListenerSpec

#: Why a container that waits will probably never run as things are.
_BAD_WAITS: Final = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
#: A container that has ended so often may well end again, and begins to count anew after so long.
#: Between two ends it only runs: nothing in its state says then that anything is wrong.
_OFTEN: Final = 2
_LONG: Final = timedelta(minutes=10)
#: Phases of pods that never run again.
_OVER: Final = frozenset({"Succeeded", "Failed"})


@dataclass(slots=True, frozen=True)
class Workload:
    """A Deployment or StatefulSet: how many pods there should be, and are."""

    desired: int = 0
    ready: int = 0
    updated: int = 0
    total: int = 0
    #: Whether its controller has seen the newest version of it.
    is_current: bool = False
    #: Whether a rollout has stood still for longer than its deadline.
    is_stuck: bool = False
    #: Why pods cannot even be made: a quota, an admission webhook; "" if they can.
    trouble: str = ""
    #: Since when; for a moment, many a thing keeps them away.
    trouble_since: datetime | None = None
    #: Whether there is such an object at all.
    exists: bool = False

    @property
    def is_replaced(self) -> bool:
        """Whether no pod of an older template is left."""
        return self.is_current and self.updated >= self.total

    @property
    def is_complete(self) -> bool:
        """Whether exactly the pods that are wanted are there, and ready."""
        return (
            self.exists
            and self.is_current
            and self.updated >= self.desired
            and self.ready >= self.desired
            and self.total <= self.desired
        )


@dataclass(slots=True, frozen=True)
class Pod:
    """One pod of a broker. ``trouble`` says in words why it does not run, if that is known."""

    name: str
    component: str
    restart_hash: str
    is_ready: bool
    is_ending: bool
    trouble: str
    address: str = ""
    uid: str = ""
    #: Which configuration it was told to look at (``names.CONFIGURATION``).
    configuration: str = ""
    #: From SIGTERM to SIGKILL, in seconds; 0 if that is not known.
    grace_s: int = 0

    @property
    def key(self) -> str:
        """What it is known by: of two pods with one name, one after the other, each has its own."""
        return self.uid or self.name


def workload(found: Mapping[str, Any] | None) -> Workload:
    """Return what a Deployment or StatefulSet says; nothing there counts as empty."""
    if found is None:
        return Workload()
    status: Mapping[str, Any] = found.get("status") or {}
    conditions = status.get("conditions") or []
    trouble: Mapping[str, Any] = next(
        (
            one
            for one in conditions
            if one.get("type") == "ReplicaFailure" and one.get("status") == "True"
        ),
        {},
    )
    return Workload(
        desired=found["spec"].get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        total=status.get("replicas", 0),
        is_current=status.get("observedGeneration", 0) >= found["metadata"].get("generation", 0),
        is_stuck=any(
            one.get("type") == "Progressing" and one.get("reason") == "ProgressDeadlineExceeded"
            for one in conditions
        ),
        trouble=str(trouble.get("message", "")),
        trouble_since=_moment(trouble.get("lastTransitionTime")),
        exists=True,
    )


def _moment(text: object) -> datetime | None:
    """Return a time of the API server."""
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def template_hash(found: Mapping[str, Any] | None) -> str:
    """Return the restart hash of a workload's pod template."""
    if found is None:
        return ""
    annotations = found["spec"]["template"]["metadata"].get("annotations") or {}
    return str(annotations.get(names.RESTART_HASH, ""))


def pods(found: Iterable[Mapping[str, Any]], now: datetime) -> list[Pod]:
    """Return what pods say, by name. Those that are over (evicted ones stay listed) are left out:
    others have taken their place."""
    alive = (one for one in found if (one.get("status") or {}).get("phase") not in _OVER)
    return sorted((_pod(one, now) for one in alive), key=lambda pod: pod.name)


def _pod(found: Mapping[str, Any], now: datetime) -> Pod:
    metadata, status = found["metadata"], found.get("status") or {}
    annotations = metadata.get("annotations") or {}
    return Pod(
        name=metadata["name"],
        component=(metadata.get("labels") or {}).get(names.COMPONENT_LABEL, ""),
        restart_hash=annotations.get(names.RESTART_HASH, ""),
        is_ready=_condition(status, "Ready") == "True",
        is_ending="deletionTimestamp" in metadata,
        trouble=_trouble(status, now),
        address=status.get("podIP", ""),
        uid=metadata.get("uid", ""),
        configuration=annotations.get(names.CONFIGURATION, ""),
        grace_s=(found.get("spec") or {}).get("terminationGracePeriodSeconds", 0),
    )


def _condition(status: Mapping[str, Any], kind: str) -> str:
    for one in status.get("conditions") or []:
        if one.get("type") == kind:
            return str(one.get("status", "Unknown"))
    return "Unknown"


def _trouble(status: Mapping[str, Any], now: datetime) -> str:
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("reason") == "Unschedulable":
            return f"no node can take it: {one.get('message', '')}".rstrip(": ")
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for one in containers:
        state = one.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
        if waiting.get("reason") in _BAD_WAITS:
            more = [str(waiting.get("message", "")), *_end(ended)]
            text = "; ".join(part.strip() for part in more if part.strip())
            return f"{waiting['reason']}: {text}".rstrip(": ")
        if ended.get("exitCode") and _ends_again(one, now):
            text = "; ".join(part.strip() for part in _end(ended) if part.strip())
            return f"it ends again and again: {text}"
    return ""


def _end(ended: Mapping[str, Any]) -> list[str]:
    """Say how a container has ended."""
    if not ended:
        return []
    return [f"it ended with code {ended.get('exitCode')}", str(ended.get("message", ""))]


def _ends_again(container: Mapping[str, Any], now: datetime) -> bool:
    """Whether a container that has ended often is on its way to the next end."""
    if container.get("ready") or container.get("restartCount", 0) < _OFTEN:
        return False
    running = (container.get("state") or {}).get("running") or {}
    return now - (_moment(running.get("startedAt")) or now) < _LONG


# Addresses

AddressKind = Literal["load balancer", "node port", "cluster"]


@dataclass(slots=True, frozen=True)
class Addresses:
    """Where clients connect. ``hosts`` is empty while a load balancer has none yet."""

    kind: AddressKind = "cluster"
    hosts: tuple[str, ...] = ()
    #: By listener: the port that clients use.
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether the cloud still has to give an address."""
        return self.kind == "load balancer" and not self.hosts

    def first(self) -> str:
        """Return HOST:PORT of the first listener, "" if there is none."""
        if not self.ports:
            return ""
        host = self.hosts[0] if self.hosts else ""
        if not host:
            return ""
        return f"[{host}]:{self.ports[0][1]}" if ":" in host else f"{host}:{self.ports[0][1]}"


def balanced_addresses(service: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the names or addresses that a cloud has given a Service of type LoadBalancer."""
    status: Mapping[str, Any] = (service or {}).get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or []
    hosts = (str(one.get("hostname") or one.get("ip") or "") for one in ingress)
    return tuple(host for host in hosts if host)


def addresses(
    service: Mapping[str, Any] | None, namespace: str, listeners: Sequence[ListenerSpec]
) -> Addresses:
    """Return where the client Service can be reached."""
    if service is None:
        return Addresses()
    spec = service["spec"]
    service_type = spec.get("type", "ClusterIP")
    by_name = {port.get("name"): port for port in spec.get("ports") or []}
    key = "nodePort" if service_type == "NodePort" else "port"
    ports = tuple(
        (listener.name, by_name[listener.name].get(key, listener.exposed_port))
        for listener in listeners
        if listener.name in by_name
    )
    if service_type == "LoadBalancer":
        return Addresses("load balancer", balanced_addresses(service), ports)
    name = f"{service['metadata']['name']}.{namespace}.svc"
    if service_type == "NodePort":
        # Every node has it; which of them clients can reach is not for us to know.
        return Addresses("node port", ("NODE",), ports)
    return Addresses("cluster", (name,), ports)
