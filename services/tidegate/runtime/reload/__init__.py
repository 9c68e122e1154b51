"""Hot reload: files are watched, a changed one is read, and what is in use is known.

Owns what /status and /metrics say of the configuration. Run by ``roles``; also used by whoever
reads certificates, passwords and access rules. Never parses a file itself.
"""
