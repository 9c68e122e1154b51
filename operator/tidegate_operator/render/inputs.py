"""Inputs of rendering, and the type of its result: plain values in, plain manifests out. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tidegate_operator import names
from tidegate_operator.secrets.owned_secrets import OwnedSecrets
from tidegate_operator.secrets.references import ReferencedFiles
from tidegate_operator.spec.broker import MqttBrokerSpec

#: An object as the API server takes it.
Manifest: TypeAlias = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Settings:
    """Settings of the operator, and the optional kinds of the cluster."""

    image: str
    operator_namespace: str = "tidegate-system"
    #: Optional kinds that are installed, with their versions.
    optional_kinds: Mapping[str, str] = field(default_factory=dict)
    #: Whether users and groups of pods come from the platform: OpenShift.
    platform_sets_users: bool = False
    #: Peers of NetworkPolicies that may reach admin ports, for brokers that name none.
    metrics_peers: Sequence[Manifest] = ()


@dataclass(slots=True, frozen=True)
class Owner:
    """An MqttBroker as owner of objects, independent of its spec."""

    name: str
    namespace: str
    uid: str

    def owner_reference(self) -> Manifest:
        """Return the owner reference by which Kubernetes deletes an object with the broker."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "name": self.name,
            "uid": self.uid,
            "controller": True,
        }

    def metadata(self, name: str, component: str) -> Manifest:
        """Return the metadata of an object that belongs to the broker."""
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": names.labels(self.name, component),
            "ownerReferences": [self.owner_reference()],
        }

    def secret(self, name: str, component: str, data: Mapping[str, bytes]) -> Manifest:
        """Return a Secret that belongs to the broker."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self.metadata(name, component),
            "type": "Opaque",
            "data": encoded(data),
        }


@dataclass(slots=True, frozen=True)
class Broker(Owner):
    """An MqttBroker with a valid spec."""

    spec: MqttBrokerSpec


@dataclass(slots=True, frozen=True)
class Inputs:
    """All inputs of rendering. The same inputs give the same manifests."""

    broker: Broker
    settings: Settings
    owned_secrets: OwnedSecrets
    referenced_files: ReferencedFiles
    #: The shortest grace period of live edges, in seconds; None if there are none.
    edge_grace_s: int | None = None
    #: Files of routers that may still use the previous store.
    old_router_files: Mapping[str, bytes] = field(default_factory=dict)
    #: Pods of a replicated store while it is reduced to one, and which of its servers is to become
    #: the primary (see ``store_phase``); None and "" else.
    store_pods: int | None = None
    wanted_primary: str = ""

    @property
    def spec(self) -> MqttBrokerSpec:
        """The desired spec."""
        return self.broker.spec


def encoded(data: Mapping[str, bytes]) -> dict[str, str]:
    """Return the data of a Secret in base64."""
    return {key: base64.b64encode(value).decode("ascii") for key, value in sorted(data.items())}


def decoded(secret: Mapping[str, Any] | None) -> dict[str, bytes]:
    """Return the data of a Secret or ConfigMap; empty if there is none."""
    if secret is None:
        return {}
    data: Mapping[str, str] = secret.get("data") or {}
    if secret.get("kind") == "ConfigMap":
        binary: Mapping[str, str] = secret.get("binaryData") or {}
        values = {key: value.encode() for key, value in data.items()}
        return values | {key: base64.b64decode(value) for key, value in binary.items()}
    return {key: base64.b64decode(value) for key, value in data.items()}
