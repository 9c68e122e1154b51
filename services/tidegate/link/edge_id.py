"""Identifiers of edges: one for each process instance of an edge, derived from the edge's name.

An edge that is restarted under its name gets another identifier, because its sessions and its lease
must not be taken for those of the instance before. ``tidegate edge`` creates them, routers parse
them.
"""

from __future__ import annotations

import secrets


def new_edge_id(name: str) -> str:
    """Make an identifier for a new instance of the edge of this name."""
    return f"{name}-{secrets.token_hex(4)}"


def name_in(edge_id: str) -> str:
    """Return the name of the edge that this is an instance of."""
    return edge_id.rpartition("-")[0] or edge_id
