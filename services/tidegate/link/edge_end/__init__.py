"""The link's end that an edge runs: one object that answers for all routers.

Owns which routers there are, what each was sent and has not confirmed, and the edge's lease.
Entered through ``RouterClient`` (a ``RouterLink``). Never decides what the store has to decide.
"""
