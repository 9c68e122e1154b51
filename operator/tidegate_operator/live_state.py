"""Observed state of workloads, pods and addresses, parsed from objects of the API. Pure.

Called by ``reconcile``; ``status`` and ``pods`` use the values.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from tidegate_operator import names
from tidegate_operator.spec.listeners import ListenerSpec

#: Waiting reasons of containers whose image cannot be pulled.
_UNPULLED_REASONS: Final = frozenset(
    {
        "ImagePullBackOff",
        "ErrImagePull",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
#: Waiting reasons of containers that need a change to run.
_FAILED_WAITING_REASONS: Final = _UNPULLED_REASONS | {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
#: A container with so many restarts counts as crash looping until it has run for so long: between
#: two crashes its state is just "running".
_CRASH_LOOP_RESTARTS: Final = 2
_CRASH_LOOP_RESET: Final = timedelta(minutes=10)
#: Phases of pods that have finished.
_FINISHED_PHASES: Final = frozenset({"Succeeded", "Failed"})


@dataclass(slots=True, frozen=True)
class Workload:
    """Observed state of a Deployment or StatefulSet."""

    desired: int = 0
    ready: int = 0
    updated: int = 0
    total: int = 0
    #: Whether its controller has observed the newest generation.
    is_current: bool = False
    #: Whether a rollout has exceeded its progress deadline.
    is_stuck: bool = False
    #: Why pods cannot be created (ReplicaFailure): a quota, an admission webhook; "" if they can.
    failure: str = ""
    #: Since when. Short failures are normal: see ``status.conditions.PATIENCE``.
    failure_since: datetime | None = None
    #: Whether the object exists.
    exists: bool = False

    @property
    def is_replaced(self) -> bool:
        """Whether all pods have the newest template."""
        return self.is_current and self.updated >= self.total

    @property
    def is_up_to_date(self) -> bool:
        """Whether there are no pods but those with the newest template, ready or not."""
        return self.exists and self.is_replaced and self.updated >= self.desired

    @property
    def is_complete(self) -> bool:
        """Whether the rollout is complete: exactly the desired pods exist, and are ready."""
        return self.is_up_to_date and self.ready >= self.desired and self.total <= self.desired


@dataclass(slots=True, frozen=True)
class Pod:
    """Observed state of a pod. ``failure``: why it does not run, if known."""

    name: str
    component: str
    restart_hash: str
    is_ready: bool
    is_terminating: bool
    failure: str
    address: str = ""
    uid: str = ""
    #: Digest of the configuration that it was annotated with (``names.CONFIGURATION``).
    configuration: str = ""
    #: Termination grace period in seconds; 0 if unknown.
    grace_s: int = 0
    #: The image that cannot be pulled, "" if there is none. ``failure`` says why.
    unpulled_image: str = ""
    #: The node that it is on, if that no longer reports; else "".
    lost_node: str = ""
    #: The revision of its StatefulSet's template; "" for others.
    revision: str = ""
    #: Its node, "" if there is none yet.
    node: str = ""
    has_admin_port: bool = False
    #: The conditions that it was annotated with (``names.CONDITIONS``).
    conditions: str = ""

    @property
    def key(self) -> str:
        """Identity of the pod: a new pod with the same name has another one."""
        return self.uid or self.name


def workload(manifest: Mapping[str, Any] | None) -> Workload:
    """Return the state of a Deployment or StatefulSet; empty if there is none."""
    if manifest is None:
        return Workload()
    status: Mapping[str, Any] = manifest.get("status") or {}
    conditions = status.get("conditions") or []
    failure: Mapping[str, Any] = next(
        (
            condition
            for condition in conditions
            if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True"
        ),
        {},
    )
    return Workload(
        desired=manifest["spec"].get("replicas", 1),
        ready=status.get("readyReplicas", 0),
        updated=status.get("updatedReplicas", 0),
        total=status.get("replicas", 0),
        is_current=status.get("observedGeneration", 0) >= manifest["metadata"].get("generation", 0),
        is_stuck=any(
            condition.get("type") == "Progressing"
            and condition.get("reason") == "ProgressDeadlineExceeded"
            for condition in conditions
        ),
        failure=str(failure.get("message", "")),
        failure_since=timestamp(failure.get("lastTransitionTime")),
        exists=True,
    )


@dataclass(slots=True, frozen=True)
class CreationFailure:
    """Why a pod could not be created, and when that was tried last."""

    text: str
    last: datetime | None

    @property
    def is_final(self) -> bool:
        """Whether no retry helps: quotas and ServiceAccounts may come, a class seldom does."""
        return "no PriorityClass with name" in self.text

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> CreationFailure:
        """Return what an event of a StatefulSet says: ``create Pod NAME in … error: REASON``."""
        text = str(event.get("message", ""))
        return cls(
            text.partition(" failed error: ")[2] or text, timestamp(event.get("lastTimestamp"))
        )


def has_no_pods(store: Workload | None, pods: Iterable[Pod]) -> bool:
    """Whether the bundled store should have pods, and has not a single one."""
    return (
        store is not None
        and store.exists
        and store.is_current
        and store.desired > 0
        and not store.total
        and not any(pod.component == "redis" for pod in pods)
    )


def bundled_store(manifest: Mapping[str, Any] | None, pods: Iterable[Pod]) -> Workload:
    """Return the state of the bundled store's StatefulSet.

    Pods that are ready count also where its status does not count them: it is created again around
    its running pods, and adopts them only after it has written its first status.
    """
    found = workload(manifest)
    serving = sum(pod.component == "redis" and pod.is_ready for pod in pods)
    return replace(found, ready=max(found.ready, serving))


def timestamp(text: object) -> datetime | None:
    """Parse a timestamp of the API server."""
    return datetime.fromisoformat(text) if isinstance(text, str) else None


def template_hash(manifest: Mapping[str, Any] | None) -> str:
    """Return the restart hash of a workload's pod template."""
    if manifest is None:
        return ""
    annotations = manifest["spec"]["template"]["metadata"].get("annotations") or {}
    return str(annotations.get(names.RESTART_HASH, ""))


def pods(
    manifests: Iterable[Mapping[str, Any]],
    now: datetime,
    ignored: Container[str] = names.JOB_COMPONENTS,
) -> list[Pod]:
    """Return the state of pods, ordered by name. Finished pods (such as evicted ones, which stay
    listed) are left out: they have been replaced. So are those of ``ignored`` components."""
    running = (
        manifest
        for manifest in manifests
        if (manifest.get("status") or {}).get("phase") not in _FINISHED_PHASES
    )
    found = (_pod(manifest, now) for manifest in running)
    return sorted((pod for pod in found if pod.component not in ignored), key=lambda pod: pod.name)


def _pod(manifest: Mapping[str, Any], now: datetime) -> Pod:
    metadata, status = manifest["metadata"], manifest.get("status") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    spec: Mapping[str, Any] = manifest.get("spec") or {}
    return Pod(
        name=metadata["name"],
        component=labels.get(names.COMPONENT_LABEL, ""),
        restart_hash=annotations.get(names.RESTART_HASH, ""),
        is_ready=_condition(status, "Ready") == "True",
        is_terminating="deletionTimestamp" in metadata,
        failure=_failure(status, now),
        address=status.get("podIP", ""),
        uid=metadata.get("uid", ""),
        configuration=annotations.get(names.CONFIGURATION, ""),
        conditions=annotations.get(names.CONDITIONS, ""),
        unpulled_image=_unpulled_image(manifest),
        grace_s=spec.get("terminationGracePeriodSeconds", 0),
        lost_node=_lost_node(manifest),
        revision=labels.get("controller-revision-hash", ""),
        node=spec.get("nodeName", ""),
        has_admin_port=names.METRICS_LABEL in labels,
    )


def _condition(status: Mapping[str, Any], kind: str) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == kind:
            return str(condition.get("status", "Unknown"))
    return "Unknown"


def _failure(status: Mapping[str, Any], now: datetime) -> str:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"unschedulable: {condition.get('message', '')}".rstrip(": ")
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for container in containers:
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        terminated = (
            state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
        )
        if waiting.get("reason") in _FAILED_WAITING_REASONS:
            parts = [str(waiting.get("message", "")), *_exit_message(terminated)]
            text = "; ".join(part.strip() for part in parts if part.strip())
            return f"{waiting['reason']}: {text}".rstrip(": ")
        if terminated.get("exitCode") and _is_crash_looping(container, now):
            text = "; ".join(part.strip() for part in _exit_message(terminated) if part.strip())
            return f"crash looping: {text}"
    return ""


def _unpulled_image(manifest: Mapping[str, Any]) -> str:
    """Return the image of the first container whose image cannot be pulled, "" without one."""
    spec: Mapping[str, Any] = manifest.get("spec") or {}
    status: Mapping[str, Any] = manifest.get("status") or {}
    for kind in ("initContainer", "container"):
        images = {one.get("name"): one.get("image", "") for one in spec.get(f"{kind}s") or []}
        for container in status.get(f"{kind}Statuses") or []:
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in _UNPULLED_REASONS:
                return str(images.get(container.get("name")) or container.get("image", ""))
    return ""


def _lost_node(manifest: Mapping[str, Any]) -> str:
    """Return the node of a pod whose kubelet no longer reports, "" if it does.

    The kubelet writes Ready and ContainersReady together; when it is lost, the control plane makes
    Ready False and leaves the rest as it was. (A readiness gate is another reason for that.)
    """
    spec: Mapping[str, Any] = manifest.get("spec") or {}
    status: Mapping[str, Any] = manifest.get("status") or {}
    is_lost = (
        _condition(status, "Ready") == "False"
        and _condition(status, "ContainersReady") == "True"
        and not spec.get("readinessGates")
    )
    return str(spec.get("nodeName", "")) if is_lost else ""


def _exit_message(terminated: Mapping[str, Any]) -> list[str]:
    """Return the exit code and message of a terminated container."""
    if not terminated:
        return []
    return [f"exit code {terminated.get('exitCode')}", str(terminated.get("message", ""))]


def _is_crash_looping(container: Mapping[str, Any], now: datetime) -> bool:
    """Whether a container has restarted several times, is not ready, and has not run for long."""
    if container.get("ready") or container.get("restartCount", 0) < _CRASH_LOOP_RESTARTS:
        return False
    running = (container.get("state") or {}).get("running") or {}
    return now - (timestamp(running.get("startedAt")) or now) < _CRASH_LOOP_RESET


# Addresses

AddressKind = Literal["load balancer", "node port", "cluster"]


@dataclass(slots=True, frozen=True)
class Addresses:
    """Addresses for clients, of a Service; empty if it does not exist. ``hosts`` is empty while a
    load balancer has none yet."""

    service: str = ""
    kind: AddressKind = "cluster"
    hosts: tuple[str, ...] = ()
    #: Name of a listener and its port for clients.
    ports: tuple[tuple[str, int], ...] = ()

    @property
    def is_pending(self) -> bool:
        """Whether the load balancer has no address yet."""
        return self.kind == "load balancer" and not self.hosts

    def first(self) -> str:
        """Return HOST:PORT of the first listener, "" if there is none."""
        if not (self.ports and self.hosts):
            return ""
        host, port = self.hosts[0], self.ports[0][1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def load_balancer_addresses(service: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the host names or addresses of a load balancer."""
    status: Mapping[str, Any] = (service or {}).get("status") or {}
    ingress = (status.get("loadBalancer") or {}).get("ingress") or []
    hosts = (str(entry.get("hostname") or entry.get("ip") or "") for entry in ingress)
    return tuple(host for host in hosts if host)


def addresses(
    service: Mapping[str, Any] | None, namespace: str, listeners: Sequence[ListenerSpec]
) -> Addresses:
    """Return the addresses of a Service for these listeners."""
    if service is None:
        return Addresses()
    spec, name = service["spec"], service["metadata"]["name"]
    service_type = spec.get("type", "ClusterIP")
    by_name = {port.get("name"): port for port in spec.get("ports") or []}
    key = "nodePort" if service_type == "NodePort" else "port"
    ports = tuple(
        (listener.name, by_name[listener.name].get(key, listener.exposed_port))
        for listener in listeners
        if listener.name in by_name
    )
    if service_type == "LoadBalancer":
        return Addresses(name, "load balancer", load_balancer_addresses(service), ports)
    if service_type == "NodePort":
        # A placeholder: the operator does not know which nodes clients can reach.
        return Addresses(name, "node port", ("NODE",), ports)
    return Addresses(name, "cluster", (f"{name}.{namespace}.svc",), ports)
