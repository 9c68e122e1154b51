"""Hot reload: watches files, reloads changed ones, and keeps which version is in use.

Owns what /status and /metrics say of the configuration. Run by ``roles``; also used by whoever
reads certificates, passwords and access rules. Never parses a file itself.
"""
