"""What running edges and routers report over their admin port, and what follows from it.

Owns which pods run with which configuration, and rebalancing. Entered by ``reconcile``. Never
writes an object of the API.
"""
