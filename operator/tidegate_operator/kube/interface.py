"""The calls to the API server that the operator needs, as a protocol: no HTTP, no kopf.

Used by ``reconcile``, ``writer``, ``cache`` and ``pods.poller``; implemented by ``client`` and
``cache``, and by a fake in tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tidegate_operator import names
from tidegate_operator.plan import ObjectRef
from tidegate_operator.render import Manifest


class KubeError(Exception):
    """The API server rejects a request. ``status`` is HTTP's; the message is the server's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_rejection(self) -> bool:
        """Whether the object was rejected, so that a retry without a change does not help."""
        return self.status in {400, 403, 404, 413, 422} or self.is_webhook_failure

    @property
    def is_webhook_failure(self) -> bool:
        """Whether an admission webhook did not respond. It is reported like a rejection, because no
        object is accepted until the webhook is repaired."""
        return self.status == 500 and "failed calling webhook" in str(self)

    @property
    def is_unsupported_dry_run(self) -> bool:
        """Whether only the dry run was rejected: some admission webhooks do not support it."""
        return self.status == 400 and "dry run" in str(self)


class KubeUnavailable(Exception):
    """The API server is unreachable or overloaded: retry later."""


@dataclass(slots=True, frozen=True)
class Listed:
    """All objects of a kind at a resource version; a watch continues from there."""

    objects: list[Manifest]
    version: str


@dataclass(slots=True, frozen=True)
class Event:
    """An object was added, modified, or deleted."""

    manifest: Manifest
    is_deleted: bool = False


class Cluster(Protocol):
    """Access to the API server. Every call raises KubeError and KubeUnavailable."""

    async def broker(self, namespace: str, name: str) -> Manifest | None:
        """Return an MqttBroker, None if there is none."""

    async def children(self, namespace: str, name: str) -> list[Manifest]:
        """Return all objects of managed kinds with the labels of a broker."""

    async def pods(self, namespace: str, name: str) -> list[Manifest]:
        """Return a broker's pods."""

    async def read(self, ref: ObjectRef, namespace: str) -> Manifest | None:
        """Return one object, None if there is none."""

    async def apply(self, manifest: Manifest, *, dry_run: bool = False) -> Manifest:
        """Apply an object (server-side apply), or validate it only; return the result."""

    async def delete(
        self, ref: ObjectRef, namespace: str, uid: str, *, orphan: bool = False
    ) -> None:
        """Delete an object if it still has this uid; a missing one is no error.

        ``orphan`` keeps what it owns; it then exists until that has lost its owner.
        """

    async def annotate_pod(
        self,
        namespace: str,
        name: str,
        uid: str,
        value: str,
        annotation: str = names.CONFIGURATION,
    ) -> None:
        """Annotate a pod, if it still has this uid; the operator's only annotation of it."""

    async def set_status(
        self, namespace: str, name: str, status: Mapping[str, Any], kind: str = names.KIND
    ) -> None:
        """Replace the status of an MqttBroker, or of an object of another ``kind`` of ours."""

    async def record_event(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        """Record an event of an object: ``kind`` is Normal or Warning."""

    async def creation_failure(self, namespace: str, stateful_set: str) -> Manifest | None:
        """Return the newest event about a pod that a StatefulSet cannot create, None if none."""

    async def optional_kinds(self) -> Mapping[str, str]:
        """Return which kinds of ``plan.OPTIONAL_KINDS`` are installed, with their versions."""
