"""With which role a server starts, and the files that it and Sentinel start with. Pure.

Called by ``member``. The Sentinels know who is the primary; a server never decides that itself. The
configuration of a pod names no primary, so a restarted pod cannot become one by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tidegate_operator.names import REDIS_PORT, SENTINEL_PORT, STORE_NAME

#: Sentinels that must agree that the primary is down. Failover needs a majority of all besides.
QUORUM: Final = 2
#: How long a primary may not reply before it counts as down. Not shorter: a Sentinel compares
#: offsets of replicas that it has read in the last 5 seconds, and those must be from after the
#: primary's last write; otherwise a replica could be promoted that lacks confirmed writes.
DOWN_AFTER_MS: Final = 5000
#: How long a failover may take. The next one begins at the earliest after twice that time.
FAILOVER_TIMEOUT_MS: Final = 5000

#: Lines of Sentinel's file that are its memory; everything else is written at each start.
_MEMORY: Final = (
    "sentinel myid ",
    f"sentinel config-epoch {STORE_NAME} ",
    f"sentinel leader-epoch {STORE_NAME} ",
    "sentinel current-epoch ",
    f"sentinel known-replica {STORE_NAME} ",
    f"sentinel known-sentinel {STORE_NAME} ",
)
_MONITOR: Final = f"sentinel monitor {STORE_NAME} "


@dataclass(slots=True, frozen=True, order=True)
class View:
    """Who is the primary, as one Sentinel says; ``epoch``: of the failover that made it that."""

    epoch: int
    primary: str


@dataclass(slots=True, frozen=True)
class Start:
    """How the server starts: as replica of ``follow``, as the primary if that is "", or not yet
    (``waits`` says why)."""

    follow: str = ""
    waits: str = ""


def primary(views: Iterable[View], members: Sequence[str]) -> str:
    """Return the primary in the newest view; without any, the first member: the store is new, or
    had one server until now."""
    newest = max((view for view in views if view.primary in members), default=None)
    return members[0] if newest is None else newest.primary


def start(own: str, primary_host: str, *, has_data: bool, keys: Sequence[int]) -> Start:
    """Return how the server of ``own`` starts.

    ``keys``: how many the other servers have, those that reply. An empty primary would empty its
    replicas, so a server without data becomes one only of a store that is empty.
    """
    if primary_host != own:
        return Start(follow=primary_host)
    if has_data:
        return Start()
    if any(keys):
        return Start(
            waits="the volume is empty and other servers have data: this server must not be the "
            "primary; waiting until Sentinel promotes another one"
        )
    if not keys:
        return Start(waits="the volume is empty: waiting until another server replies")
    return Start()


def server_file(config: str, own: str, password: str, start_as: Start, bind: str = "") -> str:
    """Return what the server is started with: its configuration, its name, its role."""
    lines = [f"include {config}", f"replica-announce-ip {own}", f"masterauth {password}"]
    if bind:
        lines.append(f"bind {bind}")
    if start_as.follow:
        lines.append(f"replicaof {start_as.follow} {REDIS_PORT}")
    return "\n".join(lines) + "\n"


def remembered_view(sentinel_file: str) -> View | None:
    """Return who was the primary, as this pod's Sentinel has written; None if it has not."""
    host, epoch = "", 0
    for line in sentinel_file.splitlines():
        words = line.replace('"', "").split()
        if line.startswith(_MONITOR):
            host = words[3]
        elif line.startswith(f"sentinel config-epoch {STORE_NAME} "):
            epoch = int(words[3])
    return View(epoch, host) if host else None


def sentinel_file(before: str, own: str, primary_host: str, directory: str, bind: str = "") -> str:
    """Return the file that Sentinel starts with: ``before`` is what it has written last.

    Passwords and names are not in it: passwords are added by ``with_password``.
    """
    view = remembered_view(before)
    memory = [line for line in before.splitlines() if line.startswith(_MEMORY)]
    known = f"{_MEMORY[4]}{primary_host} "
    memory = [line for line in memory if not line.replace('"', "").startswith(known)]
    if view is not None and view.primary != primary_host:
        # It is behind: the others tell it the epoch, too.
        memory = [line for line in memory if not line.startswith(_MEMORY[1])]
    lines = [
        f"port {SENTINEL_PORT}",
        f"bind {bind or '* -::*'}",
        "protected-mode no",
        f"dir {directory}",
        "sentinel resolve-hostnames yes",
        "sentinel announce-hostnames yes",
        f"sentinel announce-ip {own}",
        f"{_MONITOR}{primary_host} {REDIS_PORT} {QUORUM}",
        f"sentinel down-after-milliseconds {STORE_NAME} {DOWN_AFTER_MS}",
        f"sentinel failover-timeout {STORE_NAME} {FAILOVER_TIMEOUT_MS}",
        f"sentinel parallel-syncs {STORE_NAME} 1",
        *memory,
    ]
    return "\n".join(lines) + "\n"


def with_password(text: str, password: str) -> str:
    """Add the password of servers and Sentinels to Sentinel's file."""
    return (
        f"{text}sentinel auth-pass {STORE_NAME} {password}\n"
        f"requirepass {password}\nsentinel sentinel-pass {password}\n"
    )
