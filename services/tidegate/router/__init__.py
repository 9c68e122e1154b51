"""The router: where messages go, sessions, retained messages, wills, and what is due.

Owns the routing table and every call of the store; all it holds can be rebuilt. Entered through
``Router`` (a ``RouterService``). Never imports ``edge``; it knows edges as ``EdgeLink``.
"""
