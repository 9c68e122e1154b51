"""Which processes use a store together, and what is said to others.

A group is a cluster of routers (no name), or one ``tidegate serve`` with all of its processes: it
routes only between its own connections, so it shares the store with no other group. Used by
``coordination``, which takes the store for a group, and by the roles.
"""

from __future__ import annotations

import secrets
from typing import Final

#: Routers of all clusters on a store are one cluster.
CLUSTER: Final = ""
#: How the group gets to the routers that a supervisor starts.
VARIABLE: Final = "TIDEGATE_STORE_GROUP"


def group_of(name: str) -> str:
    """Return the name of a group of its own, for a ``tidegate serve`` of this name."""
    return f"{name}.{secrets.token_hex(4)}"


def in_use_by(group: str) -> str:
    """Say in a sentence who uses the store, and what to do instead."""
    if group == CLUSTER:
        return (
            "the store is used by routers of a cluster: add processes to it with `tidegate edge` "
            "and `tidegate router`, or stop the routers first"
        )
    return (
        f"the store is used by another `tidegate serve` ({group}): one store is for one of them; "
        "for several processes use `tidegate edge` and `tidegate router`, to replace it stop it "
        "first (in Kubernetes: `strategy: Recreate`)"
    )
