"""The process: its event loop, its signals, its background tasks, its parent.

Used by ``roles``, and by whoever starts tasks. Never knows what the process is for.
"""
