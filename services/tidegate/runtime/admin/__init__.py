"""The admin HTTP server: health, metrics, and the admin API.

Owns its sockets and their limits. Built by ``roles``, which hands in what it answers. Never reads
the broker's objects by itself.
"""
