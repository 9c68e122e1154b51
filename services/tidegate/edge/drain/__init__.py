"""Disconnecting clients at a rate: graceful shutdown, rebalancing, a removed listener.

Owns who is chosen and how fast they are disconnected. Entered by ``roles`` and the admin API.
Never drops what a client has yet to be acknowledged, before the deadline.
"""
