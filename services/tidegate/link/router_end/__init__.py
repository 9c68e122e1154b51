"""The link's end that a router runs: it accepts edges, and calls the router for their frames.

Owns the streams of attached edges, their credit and their barriers. Entered through ``LinkServer``
by ``roles``, and through ``EdgePeer`` (an ``EdgeLink``) by the router. Never routes a message.
"""
