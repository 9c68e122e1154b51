"""The link between edges and routers: interfaces, messages, and the two ends of a gRPC stream.

Owns the wire between pods (``proto/tidegate/link/v1``). The two ends never import each other; what
both use is in this folder itself. Only ``transport`` imports grpc. Never calls Redis.
"""
