"""The process: its event loop, its signals, its tasks, its parent.

Owns what the operating system wants of a process. Used by ``roles`` and by whoever starts tasks.
Never knows what the process is for.
"""
