"""The record: what has happened to each client, as events of closed kinds, and sentences from them.

Owns the events and what they mean. Edges and routers make events, the store keeps them, the console
and ``tidegate ctl`` read them; nothing here has a clock, a socket or a store of its own.
"""
