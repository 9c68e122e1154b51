"""The edge: clients' connections, from the listening socket to the link.

Owns the connected clients, the index of their subscriptions, and the fan-out to them. Entered by
``roles`` and, through ``EdgeLink``, by the link. Never imports ``router`` or ``store``.
"""
