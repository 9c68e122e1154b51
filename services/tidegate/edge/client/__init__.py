"""One client's connection: the rules of MQTT between a channel and the router.

Owns the order of a client's packets, its in-flight window and its state. Entered by ``edge.edge``
(which makes clients) and by the channel that feeds one. Never opens a socket, and never imports
``edge.edge``: what it needs of the edge is in its ``EdgeContext``.
"""
