"""The API server: requests, watches, a cache of the objects of brokers, and their writer.

Owns connections to the API server. ``handlers``, ``reconcile`` and ``pods`` use it, mostly through
``interface``. Never knows what objects mean for a broker.
"""
