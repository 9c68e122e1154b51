"""The broker's rules: windows, topic index, shared subscriptions, retained names, rates.

Owned by nobody else's state: ``now`` and input are arguments, results are values. Called by edges
and routers. Never imports asyncio, clocks, sockets, or anything above ``mqtt``.
"""
