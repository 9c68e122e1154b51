"""Bans: what one names, who is banned by a list of them, and when a client flaps.

Owns no list that is in force: edges do (``edge.client.banned``), from what routers read in the
store. Pure; never looks at a clock, a connection or the store.
"""
