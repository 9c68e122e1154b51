"""What every process needs whatever its role: configuration, telemetry, admin server, process.

Owns no state of the broker. Called by every room above ``core``. Never imports one of them.
"""
