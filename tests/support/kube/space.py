"""A namespace of a test's own, and the words in which tests talk about the brokers in it."""

from __future__ import annotations

import base64
import copy
import itertools
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from support.brokers import CONSOLE_USERS, pair, revocation_list
from support.kube.api import Api, Object, Refused
from support.waiting import wait_for
from tidegate_operator import names
from tidegate_operator.plan import MANAGED_KINDS
from tidegate_operator.secrets.references import FileFormat, references
from tidegate_operator.spec.problems import parse

#: Everything is there within a second or two on an idle machine.
DEADLINE_S: Final = 45.0
#: All kinds of objects that belong to a broker.
CHILDREN: Final = (*(kind for _, kind in MANAGED_KINDS), "Pod", "ReplicaSet")

#: Certificates for tests begin at a fixed day.
VALID_DAYS: Final = 3650

_numbers = itertools.count(1)


class Space:
    """A namespace; made at once, deleted by ``delete``."""

    def __init__(self, api: Api, prefix: str = "test") -> None:
        self.api = api
        self.name = f"{prefix}-{secrets.token_hex(2)}-{next(_numbers)}"
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name}})

    def delete(self) -> None:
        """Have the namespace deleted; nobody waits for the end of it."""
        self.api.delete("Namespace", self.name)

    # Brokers

    def put(self, name: str, spec: Object) -> Object:
        """Make a broker, or give it another spec; return it. Raises Refused."""
        for _ in range(20):
            there = self.api.get("MqttBroker", name, self.name)
            if there is None:
                return self.api.create(self.broker_of(name, spec))
            try:
                return self.api.replace(there | {"spec": copy.deepcopy(spec)})
            except Refused as refused:
                # The status was written meanwhile.
                if refused.status != 409:
                    raise
        raise AssertionError(f"{name} is written all the time")

    def broker_of(self, name: str, spec: Object) -> Object:
        """Return the manifest of a broker."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": name, "namespace": self.name},
            "spec": copy.deepcopy(spec),
        }

    def broker(self, name: str) -> Object:
        """Return a broker that is there."""
        found = self.api.get("MqttBroker", name, self.name)
        assert found is not None, f"there is no broker {name}"
        return found

    def condition(self, name: str, kind: str) -> Object:
        """Return a condition; what has no status yet has an empty one."""
        found = self.broker(name).get("status", {}).get("conditions") or []
        return next((one for one in found if one["type"] == kind), {})

    def until(
        self, name: str, kind: str, reason: str, status: str = "", deadline_s: float = DEADLINE_S
    ) -> Object:
        """Wait until a condition says so of the newest spec; return it."""
        seen: list[Any] = []

        def look() -> Object | None:
            one = self.broker(name)
            seen[:] = one.get("status", {}).get("conditions") or []
            found: Object = next((entry for entry in seen if entry["type"] == kind), {})
            is_new = found.get("observedGeneration") == one["metadata"]["generation"]
            fits = found.get("reason") == reason and status in {"", found.get("status")}
            return found if is_new and fits else None

        try:
            found = wait_for(look, deadline_s, f"{kind} {reason}")
        except AssertionError as error:
            said = [
                f"{one['type']} {one['status']} {one['reason']}: {one['message']}" for one in seen
            ]
            raise AssertionError(f"{error}; but {said}") from None
        assert found is not None
        return found

    def until_settled(self, name: str) -> Object:
        """Wait until a broker serves and all that its spec says has been done; return it."""
        self.until(name, "Ready", "Serving")
        self.until(name, "Progressing", "Complete")
        self.until(name, "ConfigApplied", "Applied")
        return self.broker(name)

    def until_at_rest(self, name: str) -> None:
        """Wait until a broker has settled, and Kubernetes' own controllers have said all they have
        to say of what belongs to it: nobody writes anything of it any more."""
        self.until_settled(name)
        kinds = ("Deployment", "ReplicaSet", "StatefulSet", "PodDisruptionBudget")
        self.wait(
            lambda: all(_is_at_rest(one) for kind in kinds for one in self.listed(kind, name)),
            f"all controllers have done with {name}",
        )

    # What belongs to them

    def get(self, kind: str, name: str) -> Object:
        """Return an object that is there."""
        found = self.api.get(kind, name, self.name)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def listed(self, kind: str, broker: str = "") -> list[Object]:
        """Return objects of a kind, of one broker or of all."""
        selector = f"{names.INSTANCE_LABEL}={broker}" if broker else ""
        return self.api.listed(kind, self.name, selector)

    def children(self, broker: str) -> list[tuple[str, str]]:
        """Return kind and name of everything that has a broker's labels."""
        return sorted(
            (kind, one["metadata"]["name"])
            for kind in CHILDREN
            for one in self.listed(kind, broker)
        )

    def pods(self, broker: str, component: str) -> list[Object]:
        """Return the pods of a component that are not ending."""
        selector = f"{names.INSTANCE_LABEL}={broker},{names.COMPONENT_LABEL}={component}"
        found = self.api.listed("Pod", self.name, selector)
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def pod_uids(self, broker: str, component: str) -> set[str]:
        """Return who the pods of a component are: another set means that some were replaced."""
        return {one["metadata"]["uid"] for one in self.pods(broker, component)}

    def events(self, broker: str) -> list[Object]:
        """Return what was said about a broker."""
        found = self.listed("Event")
        return [
            one
            for one in found
            if one["involvedObject"]["kind"] == names.KIND
            and one["involvedObject"]["name"] == broker
        ]

    def wait(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Wait for anything else."""
        return wait_for(condition, deadline_s, what)

    # What brokers refer to

    def provide(self, spec: Object, broker: str = "demo") -> None:
        """Make whatever a spec refers to, with content that can be used: Secrets, ConfigMaps,
        ServiceAccounts, classes of volumes and of priority."""
        found: dict[tuple[str, str], dict[str, bytes]] = {}
        for one in references(broker, parse(broker, spec)):
            content = found.setdefault((one.kind, one.name), {})
            match one.file_format:
                case FileFormat.PAIR:
                    made = pair(one.name, VALID_DAYS)
                    content |= {"tls.crt": made.certificate, "tls.key": made.key}
                case FileFormat.AUTHORITIES:
                    content[one.key] = pair("authority", VALID_DAYS).certificate
                case FileFormat.REVOCATION_LISTS:
                    content[one.key] = revocation_list()
                case FileFormat.ACL:
                    content[one.key] = b"topic read #\n"
                case FileFormat.CONSOLE_USERS:
                    content[one.key] = CONSOLE_USERS
                case FileFormat.CONSOLE_TOKENS:
                    content[one.key] = b"viewer something\n"
                case _:
                    content[one.key] = b"something\n"
        for (kind, name), content in found.items():
            # Two brokers may refer to different keys of one Secret.
            self.hold(kind, name, content, manager=f"somebody-{broker}")
        for account in _values(spec, "serviceAccountName"):
            self._apply("v1", "ServiceAccount", account, self.name)
        for name in _values(spec, "storageClassName"):
            self._apply(
                *("storage.k8s.io/v1", "StorageClass", name),
                provisioner="kubernetes.io/host-path",
                reclaimPolicy="Delete",
            )
        for name in _values(spec, "priorityClassName"):
            self._apply("scheduling.k8s.io/v1", "PriorityClass", name, value=1000)

    def hold(
        self, kind: str, name: str, content: Mapping[str, bytes], manager: str = "somebody"
    ) -> None:
        """Make a Secret or ConfigMap, or give it other content."""
        field = "data" if kind == "Secret" else "binaryData"
        data = {key: base64.b64encode(value).decode() for key, value in content.items()}
        metadata = {"name": name, "namespace": self.name}
        manifest = {"apiVersion": "v1", "kind": kind, "metadata": metadata, field: data}
        self.api.apply(manifest, manager)

    def _apply(
        self, version: str, kind: str, name: str, namespace: str = "", **content: object
    ) -> None:
        metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
        manifest = {"apiVersion": version, "kind": kind, "metadata": metadata, **content}
        self.api.apply(manifest, "somebody")


def _is_at_rest(one: Object) -> bool:
    """Whether a controller has seen the newest of an object and of its pods."""
    status = one.get("status") or {}
    if status.get("observedGeneration") != one["metadata"]["generation"]:
        return False
    if "expectedPods" in status:
        # A budget: all of these tests' pods are ready.
        return bool(status["currentHealthy"] == status["expectedPods"])
    count = one["spec"].get("replicas", 1)
    counts = {status.get(key, 0) for key in ("replicas", "readyReplicas", "availableReplicas")}
    why = {entry["type"]: entry.get("reason") for entry in status.get("conditions") or []}
    return counts == {count} and why.get("Progressing") in {None, "NewReplicaSetAvailable"}


def _values(value: object, key: str) -> set[str]:
    """Return what a key is anywhere in a spec."""
    if isinstance(value, Mapping):
        own = {value[key]} if isinstance(value.get(key), str) else set()
        return own.union(*(_values(one, key) for one in value.values()))
    if isinstance(value, list):
        return set().union(*(_values(one, key) for one in value))
    return set()
