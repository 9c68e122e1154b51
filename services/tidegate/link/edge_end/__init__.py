"""The link's end that an edge runs: all routers, behind one object.

Owns the connections to routers, what each was sent and has not confirmed, and the edge's lease.
Entered through ``RouterClient`` (a ``RouterLink``) by ``roles``. Leaves what is correct to the
store's scripts.
"""
