"""The API server: requests, watches, a cache of what brokers consist of, and write back-off.

Owns connections to the API server. Entered by ``reconcile`` and ``handlers`` through ``interface``.
Never knows a rule about brokers.
"""
