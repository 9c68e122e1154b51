"""The link between edges and routers: interfaces, messages, and the two ends of a gRPC stream.

Owns the wire between pods (``proto/tidegate/link/v1``). Edges, routers and roles use the
interfaces; roles also build the two ends, ``edge_end`` and ``router_end``, which never import each
other. What carries their streams is chosen in ``transport``: ``http2`` or ``grpc_carrier``. Nothing
outside imports grpc or h2. Never calls the store.
"""
