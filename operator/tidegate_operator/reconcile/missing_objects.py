"""What was deleted or changed by somebody, and has to be as it was although the newest spec is
refused. Pure.

Called by ``reconciler``; ``last_applied`` has what was applied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from tidegate_operator import names
from tidegate_operator.plan import ROUTE_KINDS, ObjectRef, autoscaled, belongs_to
from tidegate_operator.render.inputs import Manifest
from tidegate_operator.render.restart_hash import digest
from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.client_services import ClientService, client_services
from tidegate_operator.status import listener_status

#: Kinds of objects without which running pods are not found, not replaced, or not protected.
_BASIC_KINDS: Final = frozenset(
    {"Service", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"}
)


#: The same, and what scales pods and brings clients to them: never of a refused spec, so it is made
#: again only if it is known what was applied.
KEPT_KINDS: Final = _BASIC_KINDS | {"HorizontalPodAutoscaler"} | ROUTE_KINDS


def basics(
    name: str,
    spec: MqttBrokerSpec,
    status: Mapping[str, Any] | None,
    manifests: Sequence[Manifest],
    live: Mapping[ObjectRef, Manifest],
    last_applied: Sequence[Manifest],
    *,
    is_whole: bool,
) -> list[Manifest]:
    """Return a broker's objects of the kept kinds.

    As they were applied last. Where that is not known, those of ``manifests`` of which the live
    object is a changed one, and the missing ones that do not depend on what is new in the spec: of
    one that is the usable part of another (``is_whole`` is false) only what belongs to pods that
    run; Services of the very listeners that they published before, since these ports run as the
    spec before says; the policy of edges if it admits clients to all of them; no autoscalers and no
    routes.
    """
    if last_applied:
        return list(last_applied)
    published = {service.name: service for service in client_services(name, spec)}
    before = listener_status.services(name, status)

    def is_wanted(manifest: Manifest) -> bool:
        kind, component = manifest["kind"], _component(manifest)
        if kind not in _BASIC_KINDS:
            return False
        if component == "edge" and kind == "NetworkPolicy":
            return all(
                service in published and ports <= _ports(published[service])
                for service, ports in before.items()
            )
        # Of edges are those for clients alone; a wrong one may have the name of another Service.
        if kind != "Service" or component != "edge":
            return is_whole or _runs(name, component, live)
        service = published[manifest["metadata"]["name"]]
        return service.name in before and (is_whole or _is_same(service, before[service.name]))

    return [
        manifest
        for manifest, current in (
            (one, live.get(ObjectRef.of(one))) for one in manifests if one["kind"] in KEPT_KINDS
        )
        if current is not None or is_wanted(manifest)
    ]


def superseded(
    kept: Sequence[Manifest],
    refused: Sequence[Manifest],
    live: Mapping[ObjectRef, Manifest],
    owner_uid: str,
    optional_kinds: Mapping[str, str],
) -> frozenset[ObjectRef]:
    """Return what of the objects to be kept must not be as it was any more.

    That is what a newer spec has reached, since what can be applied is applied: an object that was
    applied with another manifest, and an autoscaler of pods that ``refused`` (all that was to be
    written) gives a fixed number. And routes in a version that the cluster does not have any more.
    """

    def is_superseded(ref: ObjectRef, manifest: Manifest) -> bool:
        if ref.kind not in KEPT_KINDS:
            return False
        if ref.kind in ROUTE_KINDS and optional_kinds.get(ref.kind) != ref.api_version:
            return True
        if ref in live:
            return belongs_to(live[ref], owner_uid) and not _was_applied(manifest, live[ref])
        return any(_is_live(one, refused, live) for one in autoscaled([manifest]) - scaled)

    scaled = autoscaled(refused)
    by_ref = {ObjectRef.of(manifest): manifest for manifest in kept}
    return frozenset(ref for ref, manifest in by_ref.items() if is_superseded(ref, manifest))


def _is_live(
    ref: ObjectRef, manifests: Sequence[Manifest], live: Mapping[ObjectRef, Manifest]
) -> bool:
    """Whether an object was applied with one of these manifests."""
    return ref in live and any(
        _was_applied(one, live[ref]) for one in manifests if ObjectRef.of(one) == ref
    )


def _was_applied(manifest: Manifest, live: Manifest) -> bool:
    """Whether a manifest is the one that the live object was applied with."""
    annotations = live["metadata"].get("annotations") or {}
    return bool(annotations.get(names.APPLIED_HASH) == digest(manifest))


def _component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"][names.COMPONENT_LABEL])


def _runs(name: str, component: str, live: Mapping[ObjectRef, Manifest]) -> bool:
    """Whether a component has pods; metrics are of all of them."""
    kind = "StatefulSet" if component == "redis" else "Deployment"
    return component == "metrics" or ObjectRef("apps/v1", kind, f"{name}-{component}") in live


def _is_same(service: ClientService, before: set[tuple[str, int]]) -> bool:
    """Whether a Service publishes the listeners that it did before, at the same ports (of type
    NodePort, Kubernetes may have chosen them)."""
    ports = _ports(service)
    if service.settings.type == "NodePort":
        return {listener for listener, _ in ports} == {listener for listener, _ in before}
    return ports == before


def _ports(service: ClientService) -> set[tuple[str, int]]:
    return {(one.name, one.exposed_port) for one in service.listeners}
