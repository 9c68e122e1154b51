"""OpenShift's rules of who may run: the SecurityContextConstraints ``restricted-v2``.

As a namespace's service accounts have them where nobody has given them others. What a pod does not
say is filled in by OpenShift; what it says must be what would be filled in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

#: Users of a namespace, its annotation ``openshift.io/sa.scc.uid-range`` (1000680000/10000).
USERS: Final = range(1_000_680_000, 1_000_690_000)
_VOLUMES: Final = frozenset(
    {
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
        *("persistentVolumeClaim", "projected", "secret"),
    }
)
_HOSTS: Final = ("hostNetwork", "hostPID", "hostIPC")


def problems(pod: dict[str, Any]) -> list[str]:
    """Return why ``restricted-v2`` refuses the spec of a pod; empty: it admits it."""
    return list(_problems(pod))


def _problems(pod: dict[str, Any]) -> Iterator[str]:
    yield from (f"{field} is set" for field in _HOSTS if pod.get(field))
    for volume in pod.get("volumes", []):
        yield from (f"volume of kind {kind}" for kind in set(volume) - {"name"} - _VOLUMES)
    context = pod.get("securityContext", {})
    if context.get("fsGroup", USERS.start) != USERS.start:
        yield f"fsGroup: {context['fsGroup']}"
    if context.get("sysctls"):
        yield "sysctls"
    yield from _users("pod", context)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        name, own = container["name"], container.get("securityContext", {})
        yield from _users(name, own)
        if own.get("allowPrivilegeEscalation") or own.get("privileged"):
            yield f"{name}: privileges"
        if own.get("procMount", "Default") != "Default":
            yield f"{name}: procMount"
        added = set(own.get("capabilities", {}).get("add", []))
        if added - {"NET_BIND_SERVICE"}:
            yield f"{name}: capabilities {added}"
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: hostPort"


def _users(name: str, context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsUser", USERS.start) not in USERS:
        yield f"{name}: runAsUser: {context['runAsUser']}"
    if "seLinuxOptions" in context:
        yield f"{name}: seLinuxOptions"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") != "RuntimeDefault":
        yield f"{name}: seccompProfile"
