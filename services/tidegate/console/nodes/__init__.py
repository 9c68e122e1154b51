"""The edges and routers as the console sees them: their addresses, and their admin servers.

Owns the connections to them. Used by ``routes`` and ``figures``. One that does not answer is named,
and fails nothing else.
"""
