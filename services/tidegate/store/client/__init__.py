"""Connections to the servers of the store: lanes, topologies, fail-over, circuit breaker.

Owns the sockets to Redis and the batches on them. Entered by ``redis_store`` and ``partitions``.
Never knows what an operation means.
"""
