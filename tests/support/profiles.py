"""How fast a cluster under faults notices them, and how long the faults last.

``quick`` is for every build: short leases and timeouts. ``default`` is what users get: leases and
timeouts of the configuration; it needs many minutes to show anything. TIDEGATE_CHAOS_PROFILE
chooses.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Final

from support.cluster import LEASE_S
from support.history_check import Snapshot


@dataclass(frozen=True, slots=True)
class Profile:
    """Times in seconds."""

    name: str
    #: Sections of the configuration that are not the cluster's own.
    settings: dict[str, Any]
    #: Whether the cluster has the short times of ``support.cluster``.
    quick: bool
    lease_s: float
    #: From fault to fault.
    every_s: float
    #: Shortest and longest.
    cut_s: tuple[float, float]
    store_s: tuple[float, float]
    #: The same, as parts of the lease.
    pause: tuple[float, float]
    #: How much later than lease and sweep a will may be: timeouts of the link and of the store.
    margin_s: float
    settle_s: float
    #: Whether the store goes back, clocks step and descriptors end, too.
    everything: bool = False

    def announced(self, **more: Any) -> Snapshot:
        """What clients may see."""
        # 0x8D: for clients that say nothing any more, and when the edge itself has hung.
        # 0x89: for a CONNECT that is read when a newer connection has the session.
        disconnect, connack = Snapshot().disconnect | {0x8D}, Snapshot().connack | {0x89}
        return Snapshot(
            disconnect=disconnect,
            connack=connack,
            lease_s=self.lease_s,
            margin_s=self.margin_s,
            notice_s=self.lease_s + self.margin_s,
            **more,
        )


QUICK: Final = Profile(
    "quick",
    {"store": {"operation_timeout_s": 2}},
    quick=True,
    lease_s=LEASE_S,
    every_s=2.0,
    cut_s=(0.5, 3.5),
    store_s=(0.2, 3.2),
    pause=(0.4, 1.8),
    margin_s=4.0,
    settle_s=45.0,
)
DEFAULT: Final = Profile(
    "default",
    {},
    quick=False,
    lease_s=10.0,
    every_s=5.0,
    cut_s=(0.5, 12.0),
    store_s=(0.2, 6.0),
    pause=(0.4, 1.6),
    margin_s=12.0,
    settle_s=120.0,
    everything=True,
)


def chosen() -> Profile:
    """The profile of this run."""
    profiles = {profile.name: profile for profile in (QUICK, DEFAULT)}
    return profiles[os.environ.get("TIDEGATE_CHAOS_PROFILE", "quick")]
