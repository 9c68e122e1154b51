"""Running edges and routers: what they report over their admin port, and what follows from it.

Owns which pods use which configuration, and rebalancing. ``reconcile`` calls ``poller``;
``status`` uses its results. Never writes an object other than an annotation of pods.
"""
