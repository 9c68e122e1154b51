"""The command ``tidegate``: arguments in, one call, one sentence when it fails.

Owns flags, help and exit codes. Entered by the console script and ``python -m tidegate``; calls
``roles`` and what checks files. Never holds a rule of the broker, and imports it inside commands.
"""
