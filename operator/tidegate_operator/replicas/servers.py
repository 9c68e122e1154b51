"""What the servers of a replicated store report. Pure.

``pods.admin_client`` parses the reports (``store_member.report`` makes them); the neighbours use
them. A server that does not report is not in the mapping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tidegate_operator import names
from tidegate_operator.live_state import Pod


@dataclass(slots=True, frozen=True)
class StoreServer:
    """One server's report."""

    role: str = "starting"
    #: Whether Sentinel says that this server is the primary.
    is_confirmed: bool = False
    link_up: bool = False
    in_sync: int = 0
    lag_s: int = 0
    behind_bytes: int = 0
    #: Replicas that its Sentinel knows.
    replicas: int = 0
    waits: str = ""

    @property
    def is_primary(self) -> bool:
        """Whether it is the primary, and Sentinel says so too."""
        return self.role == "primary" and self.is_confirmed


def parse_server(body: object) -> StoreServer | None:
    """Return a report, None if it is none. It may be of another version."""
    if not isinstance(body, Mapping) or not isinstance(body.get("role"), str):
        return None
    counts = {
        key: value
        for key in ("in_sync", "lag_s", "behind_bytes", "replicas")
        if isinstance(value := body.get(key), int)
    }
    return StoreServer(
        role=body["role"],
        is_confirmed=bool(body.get("primary")) and body.get("primary") == body.get("host"),
        link_up=body.get("link_up") is True,
        waits=str(body.get("waits") or ""),
        **counts,
    )


def store_pods(pods: Iterable[Pod]) -> list[Pod]:
    """Return the pods of the store."""
    return [pod for pod in pods if pod.component == "redis"]


def is_replicated(stateful_set: Mapping[str, Any] | None) -> bool:
    """Whether a StatefulSet is that of a replicated store: its pods have an admin port."""
    if stateful_set is None:
        return False
    labels = stateful_set["spec"]["template"]["metadata"].get("labels") or {}
    return names.METRICS_LABEL in labels
