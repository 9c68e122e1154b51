"""Identifiers of edges: each names one life of an edge, and says which edge it is a life of.

An edge that is started again under its name has another identifier, for its sessions and its lease
must not be taken for those of the life before. Made by ``tidegate edge``; routers look into them.
"""

from __future__ import annotations

import secrets


def new_edge_id(name: str) -> str:
    """Make an identifier for a life of the edge of this name."""
    return f"{name}-{secrets.token_hex(4)}"


def name_in(edge_id: str) -> str:
    """Return the name of the edge that this is a life of."""
    return edge_id.rpartition("-")[0] or edge_id
