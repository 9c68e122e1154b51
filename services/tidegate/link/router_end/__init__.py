"""The link's end that a router runs: it accepts edges and turns their frames into calls.

Owns the streams of attached edges, their credit and their barriers. Entered through ``LinkServer``
by ``roles``, and through ``EdgePeer`` (an ``EdgeLink``) by the router. Never routes a message.
"""
