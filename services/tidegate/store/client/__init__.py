"""Connections to the servers of the store: lanes, topologies, fail-over, circuit breaker.

Owns sockets to Redis and what travels on them together. Entered by ``redis_store`` only. Never
knows what an operation means.
"""
