"""The router: routing of messages, sessions, retained messages, wills, and timed work.

Owns the routing table and every call of the store; all its state can be rebuilt. Entered through
``Router`` (a ``RouterService``). Never imports ``edge``; it knows edges as ``EdgeLink``.
"""
