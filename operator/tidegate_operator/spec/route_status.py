"""What a route of the Gateway API says of itself: ``route`` of a listener or the console. Pure.

Called by ``reconcile``. A Gateway answers for each parent with conditions; what refers to an
earlier generation of the route says nothing about this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from tidegate_operator.spec.broker import MqttBrokerSpec
from tidegate_operator.spec.gateway import RouteKind
from tidegate_operator.spec.routes import WantedRoute, wanted_routes
from tidegate_operator.spec.status import RouteStatus

_MAX_MESSAGE: Final = 1000
_KEYS: Final = ("group", "kind", "namespace", "name", "sectionName", "port")
_UNANSWERED: Final = (
    "no Gateway has answered: check gateway.parentRefs, that the Gateway exists and admits routes "
    "of this namespace and kind (allowedRoutes), and that its controller runs"
)
State = Literal["True", "False", "Unknown"]


def route_statuses(
    broker: str,
    namespace: str,
    spec: MqttBrokerSpec,
    kinds: Mapping[str, str],
    live: Iterable[Mapping[str, Any]],
) -> dict[str, RouteStatus]:
    """Return all routes that a spec asks for, by ``WantedRoute.listener``; ``kinds`` are those of
    the cluster."""
    objects = {(one["kind"], one["metadata"]["name"]): one for one in live}
    found = {}
    for wanted in wanted_routes(broker, spec):
        route = objects.get((wanted.kind, wanted.name))
        if wanted.kind not in kinds:
            found[wanted.listener] = _status(wanted, message=missing_text(wanted.kind))
        elif route is None:
            found[wanted.listener] = _status(wanted, message="it is not created yet")
        else:
            found[wanted.listener] = _observed(wanted, namespace, route)
    return found


def missing_text(kind: RouteKind) -> str:
    """Return that the cluster does not have a kind, and what to install."""
    releases = {
        "HTTPRoute": "the standard channel of the Gateway API",
        "TLSRoute": "the standard channel of the Gateway API 1.5 or newer, or the experimental "
        "channel of an earlier one",
        "TCPRoute": "the experimental channel of the Gateway API",
    }
    return (
        f"the cluster does not have the kind {kind} (gateway.networking.k8s.io): install the CRDs "
        f"of {releases[kind]}, and a controller that supports {kind}"
    )


def _status(wanted: WantedRoute, **values: Any) -> RouteStatus:
    values["message"] = values.get("message", "")[:_MAX_MESSAGE]
    return RouteStatus.model_validate({"kind": wanted.kind, "name": wanted.name, **values})


def _observed(wanted: WantedRoute, namespace: str, route: Mapping[str, Any]) -> RouteStatus:
    answers = _answers(namespace, route)
    parents = [_key(one, namespace) for one in route["spec"].get("parentRefs") or []]
    accepted, why = _joined("Accepted", parents, answers)
    resolved, why_not_resolved = _joined("ResolvedRefs", parents, answers)
    programmed, why_not_programmed = _joined("Programmed", parents, answers)
    problems = [text for text in (why, why_not_resolved, why_not_programmed) if text]
    if accepted == "Unknown" and not problems:
        problems = [_UNANSWERED]
    return _status(
        wanted,
        accepted=accepted,
        resolvedRefs=resolved,
        programmed=None if programmed == "Unknown" else programmed,
        message="; ".join(dict.fromkeys(problems)),
    )


def _answers(
    namespace: str, route: Mapping[str, Any]
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Return the conditions of each parent that are about the newest route."""
    generation = route["metadata"].get("generation", 0)
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for parent in (route.get("status") or {}).get("parents") or []:
        conditions = [
            one
            for one in parent.get("conditions") or []
            if one.get("observedGeneration", generation) >= generation
        ]
        found.setdefault(_key(parent.get("parentRef") or {}, namespace), []).extend(conditions)
    return found


def _key(parent: Mapping[str, Any], namespace: str) -> tuple[Any, ...]:
    defaults = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace}
    return tuple(parent.get(key, defaults.get(key)) for key in _KEYS)


def _joined(
    kind: str,
    parents: list[tuple[Any, ...]],
    answers: Mapping[tuple[Any, ...], list[Mapping[str, Any]]],
) -> tuple[State, str]:
    """Return what all parents say together, and what is wrong."""
    states = []
    for parent in parents:
        said = [one for one in answers.get(parent, ()) if one.get("type") == kind]
        refused = next((one for one in said if one.get("status") == "False"), None)
        if refused is not None:
            gateway = f"{parent[2]}/{parent[3]}"
            reason, message = refused.get("reason", "?"), refused.get("message", "")
            return "False", f"{parent[1]} {gateway}: {kind} is False ({reason}): {message}"
        states.append(any(one.get("status") == "True" for one in said))
    return ("True" if states and all(states) else "Unknown"), ""
