"""What is to be known of the whole broker, and what to do first: the sentences of the overview.

Pure: made of what the nodes say of themselves, and of what `tidegate doctor` finds about the store.
Called by ``routes.overview``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

from tidegate.console.models.overview import Condition, Finding, Resource
from tidegate.doctor.certificates import expires

_DAY_S: Final = 86_400
#: As `tidegate doctor` has it.
_SOON_DAYS: Final = 30
_ORDER: Final = {"problem": 0, "advice": 1, "ok": 2}

#: Reasons of drops that say that somebody gets less than he subscribed to, and what to do.
_DROPS: Final[Mapping[str, str]] = {
    "queue_full": "see which clients do not take their messages (clients with the longest queues); "
    "raise limits.max_queued_messages if they come back later",
    "queue_bytes": "raise limits.max_queued_bytes or limits.max_durable_queue_bytes, or send less "
    "to these clients",
    "slow_consumer": "these clients read more slowly than they are sent to: see their connection",
    "store_full": "give the store more memory: messages are refused until it has some",
    "store_unavailable": "see the store: messages for durable sessions need it",
    "mailbox_full": "an edge does not keep up: see the nodes' load, add edges",
    "link_lost": "see the network between edges and routers",
    "retained_quota": "see limits.max_retained_messages and its neighbours",
}
_REFUSALS: Final[Mapping[str, str]] = {
    "bad_user_name_or_password": "see the events for the clients and addresses, and the password "
    "file",
    "not_authorized": "see the events for the clients, and auth in the settings",
    "max_connections": "raise max_connections of the listener, or add edges",
    "max_connections_per_address": "see limits.max_connections_per_address: a proxy without PROXY "
    "protocol is one address",
    "descriptors": "raise the limit of open files of the edges",
    "server_unavailable": "see the routers and the store: no session can be opened",
    "unavailable": "see the routers and the store: no session can be opened",
    "tls_handshake": "see listeners and certificates: clients may not accept them",
    "session_quota": "see limits.max_sessions_per_user",
}


def sorted_findings(found: Sequence[Finding]) -> list[Finding]:
    """Return what is to be done, the worst first."""
    return sorted(
        (each for each in found if each.level != "ok"), key=lambda each: _ORDER[each.level]
    )


def of_missing(missing: Sequence[str]) -> Iterator[Finding]:
    """Yield one finding for each node that does not answer."""
    for text in missing:
        node, _, reason = text.rpartition(": ")
        yield Finding(
            area="nodes",
            level="problem",
            text=f"{node} does not answer: {reason}",
            change="see whether the process runs and its admin server is reachable from the "
            "console (console.edges, console.routers, console.token_file)",
            node=node,
        )


def of_status(name: str, status: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what a node's /status says."""
    drain = status.get("drain") or {}
    if drain.get("draining"):
        left = drain.get("clients_left", 0)
        yield _advice("nodes", name, f"{name} is draining: {left} clients left", "restart it later")
    elif not status.get("ready"):
        reason = status.get("reason", "")
        change = "see the store" if "store" in reason else "see the log of this process"
        yield _problem("nodes", name, f"{name} is not ready: {reason}", change)
    if status.get("holding"):
        yield _problem(
            "nodes",
            name,
            f"{name} accepts no publishes: no router takes them",
            "see the routers and the store",
        )
    clock = status.get("clock") or {}
    if clock.get("problem"):
        yield _problem(
            "clocks", name, f"{name}: {clock['problem']}", "synchronise the clock of its machine"
        )
    configuration = status.get("configuration") or {}
    if configuration.get("problem"):
        yield _problem(
            "configuration",
            name,
            f"{name}: the changed configuration is not in force: {configuration['problem']}",
            "correct the file; it is read again by itself",
        )
    if configuration.get("restart_needed"):
        keys = ", ".join(configuration["restart_needed"])
        yield _advice("configuration", name, f"{name}: {keys} wait for a restart", "restart it")
    for path, file in (configuration.get("files") or {}).items():
        if file.get("problem"):
            yield _problem(
                "files",
                name,
                f"{name}: {path} is not in use: {file['problem']}",
                "correct the file",
            )
    history = status.get("store_history") or {}
    if history.get("state") not in {None, "", "current"}:
        yield _problem(
            "store",
            name,
            f"{name}: the store went back to an older state ({history['state']})",
            "see docs/operations.md, A store that went back",
        )


def of_versions(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Yield one finding if not all nodes are of one version."""
    if len(set(versions.values())) > 1:
        text = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        yield Finding(
            area="nodes",
            level="advice",
            text=f"nodes of several versions: {text}",
            change="finish the update",
        )


def of_listeners(name: str, listeners: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Yield what is wrong with certificates of a node's listeners, or will be soon."""
    now_s = time.time()
    for listener in listeners:
        tls = listener.get("tls") or {}
        for kind in ("certificates", "client_ca", "client_crl"):
            for each in tls.get(kind, ()):
                days = int((each["not_after"] - now_s) // _DAY_S)
                where = f"{name}, listener {listener['listener']}: {each['path']}"
                if each.get("problem"):
                    yield _problem("certificates", name, f"{where}: {each['problem']}", _RENEW)
                elif days < (2 if kind == "client_crl" else _SOON_DAYS):
                    text = f"{where}: {each['what']} {expires(days)}"
                    yield _advice("certificates", name, text, _RENEW)


_RENEW: Final = "put a new one into the file; it is used without a restart"


def of_resource(resource: Resource, now_s: float) -> Iterator[Finding]:
    """Yield what the conditions of the MqttBroker say, each text once."""
    name = f"MqttBroker {resource.namespace}/{resource.name}"
    said: list[str] = []
    for condition in sorted(resource.conditions, key=_rank):
        found = _of_condition(condition)
        if found is None or any(condition.message in text for text in said):
            continue
        said.append(condition.message)
        level, what = found
        yield Finding(
            area="kubernetes",
            level=level,
            text=f"{name} {what} ({condition.reason}): {condition.message}",
            change="correct its spec, or what this names; docs/kubernetes.md has the reasons",
        )
    if resource.seen_at is not None and now_s - resource.seen_at > _UNSEEN_S:
        minutes = int((now_s - resource.seen_at) // 60)
        yield Finding(
            area="kubernetes",
            level="problem",
            text=f"{name}: no operator has written its conditions for {minutes} minutes",
            change="see the operator's pod and its log: nobody takes care of this broker",
        )


def _rank(condition: Condition) -> int:
    return _CONDITIONS.index(condition.type) if condition.type in _CONDITIONS else len(_CONDITIONS)


def _of_condition(condition: Condition) -> tuple[Literal["advice", "problem"], str] | None:
    """Return how grave a condition is, and what it means; None if nothing is to be done."""
    match condition.type, condition.status:
        case "Degraded", "True":
            return "problem", "is degraded"
        case "Ready", "False":
            return "problem", "is not ready"
        case "CertificatesReady", "False":
            return "advice", "lacks a certificate that is valid"
        case "CertificatesReady", "True" if condition.reason == "EndsSoon":
            return "advice", "has a certificate that ends soon"
        case "StoreReplicated", "False":
            return "advice", "has a store that is not replicated"
        case "ConfigApplied", "False" if condition.reason not in _UNDER_WAY:
            return "advice", "does not use its newest configuration"
    return None


#: The most telling ones first: others often repeat what they say.
_CONDITIONS: Final = ("Degraded", "Ready", "CertificatesReady", "StoreReplicated", "ConfigApplied")
_UNDER_WAY: Final = frozenset({"Applying", "NoPods"})
#: The operator writes them every five minutes.
_UNSEEN_S: Final = 900


def of_counts(dropped: Mapping[str, int], refused: Mapping[str, int]) -> Iterator[Finding]:
    """Yield what was dropped and refused in the last minutes, where somebody may miss it."""
    for reason, change in _DROPS.items():
        if count := dropped.get(reason, 0):
            yield Finding(
                area="messages",
                level="advice",
                text=f"{count} message copies were dropped in five minutes: {reason}",
                change=change,
            )
    for reason, change in _REFUSALS.items():
        if count := refused.get(reason, 0):
            yield Finding(
                area="connections",
                level="advice",
                text=f"{count} connections were refused in five minutes: {reason}",
                change=change,
            )


def _problem(area: str, node: str, text: str, change: str) -> Finding:
    return Finding(area=area, level="problem", text=text, change=change, node=node)


def _advice(area: str, node: str, text: str, change: str) -> Finding:
    return Finding(area=area, level="advice", text=text, change=change, node=node)
