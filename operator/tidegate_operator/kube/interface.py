"""What the operator needs of a cluster, in words of its own: no HTTP, nothing of kopf's.

``reconcile`` and ``cache`` know this only; ``kube`` does it, and tests can stand in for a server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest


class KubeError(Exception):
    """The API server says no. ``status`` is HTTP's; the message is the server's own sentence."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_the_object(self) -> bool:
        """Whether what was sent is to blame, and sending it again will not help."""
        return self.status in {400, 403, 404, 413, 422} or self.is_about_a_webhook

    @property
    def is_about_a_webhook(self) -> bool:
        """Whether an admission webhook was to be asked, and did not answer: whoever runs it has to
        know, for without it nothing is accepted."""
        return self.status == 500 and "failed calling webhook" in str(self)

    @property
    def is_about_dry_runs(self) -> bool:
        """Whether only the question was refused: some admission webhooks cannot be asked."""
        return self.status == 400 and "dry run" in str(self)


class KubeUnavailable(Exception):
    """The API server cannot be reached, or is too busy: later."""


@dataclass(slots=True, frozen=True)
class Listed:
    """All objects of a kind, as they were at a version of the cluster; events go on from there."""

    objects: list[Manifest]
    version: str


@dataclass(slots=True, frozen=True)
class Event:
    """An object has come, has changed, or has gone."""

    manifest: Manifest
    is_deleted: bool = False


class Cluster(Protocol):
    """What ``reconcile`` needs of a cluster. Every call raises KubeError and KubeUnavailable."""

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """Return an MqttBroker, None if there is none."""

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """Return everything that has the labels of a broker, in all managed kinds."""

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """Return a broker's pods."""

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """Return one object, None if there is none."""

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply one object, or only ask whether it would be accepted; return what is there."""

    async def delete(self, ref: ObjectRef, namespace: str, uid: str) -> None:
        """Delete one object, if it is still that one; what is gone already is fine."""

    async def annotate_pod(self, namespace: str, name: str, uid: str, value: str) -> None:
        """Tell a pod which configuration it shall find, if it is still that pod."""

    async def set_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> None:
        """Replace an MqttBroker's status."""

    async def say(self, broker: Manifest, kind: str, reason: str, message: str) -> None:
        """Record an event about a broker: ``kind`` is Normal or Warning."""

    async def optional_kinds(self) -> frozenset[str]:
        """Return which kinds of others the cluster knows."""
