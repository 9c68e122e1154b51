"""A router's part in the figures of the whole broker (``$SYS``).

Owns the last figures of each edge and of each other router, which edges pass on. Called by
``edge_frames`` with what edges send, and answers with this router's own figures; read by the
publisher of ``$SYS``.
"""

from __future__ import annotations

from collections.abc import Callable

from tidegate.link.interfaces import RouterService
from tidegate.link.messages import SMALL_BYTES
from tidegate.link.router_end.attached_edges import AttachedEdge, AttachedEdges
from tidegate.link.v1 import link_pb2 as pb


class RouterFigures:
    """See the module's docstring."""

    __slots__ = ("_edges", "_known", "_router", "own")

    def __init__(self, router: RouterService, edges: AttachedEdges) -> None:
        self._router = router
        self._edges = edges
        #: By process: the instance of a router, the identifier of an edge.
        self._known: dict[str, dict[str, int]] = {}
        #: This router's own figures; none are sent while it returns nothing.
        self.own: Callable[[], dict[str, int]] = dict

    def on_figures(self, attached: AttachedEdge, figures: pb.Figures) -> None:
        """Store figures that an edge has sent; answer those of its own with this router's."""
        self._known[figures.life] = dict(figures.values)
        peer = attached.peer
        own = self.own()
        if own and figures.life == peer.edge_id:
            operation = peer.outbox.operation().figures
            operation.life = self._router.instance
            operation.values.update(own)
            peer.outbox.grew(SMALL_BYTES * len(own))

    def all_processes(self) -> dict[str, dict[str, int]]:
        """Return the figures of every live process, as far as known, by process."""
        processes = {*self._edges.by_id, *self._router.live_routers()}
        self._known = {
            process: found for process, found in self._known.items() if process in processes
        }
        return {**self._known, self._router.instance: self.own()}
