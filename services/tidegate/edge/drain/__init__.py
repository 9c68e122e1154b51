"""Disconnecting clients at a rate: graceful shutdown, rebalancing, a removed listener.

Owns which clients are chosen and how fast they are disconnected. Entered by ``roles`` and
``edge.administration``. Never disconnects a client that waits for acknowledgements, before the
deadline; never writes to a channel.
"""
