"""gRPC over HTTP/2 on the event loop: what carries the link by default.

Entered by ``link.transport``, for the stream of an edge (``client``) and for the listener of a
router (``server``). Owns connections and their flow control. Never reads a frame of the link.
"""
