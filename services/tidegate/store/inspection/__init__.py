"""The store as the console sees it: reading what brokers keep, in pieces, beside their work.

Owns the connections of a process that routes nothing. Entered by ``tidegate.console`` and, for its
connections, by ``backup_access``. Takes no lease, and never blocks a server with a long command.
"""
