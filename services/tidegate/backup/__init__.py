"""Backup and restore: what a store holds, in one file that can be checked.

Owns the file's format, its targets and the order of the work. Entered by ``cli.backup``; reads and
writes the store through ``store.backup_access`` only. Never a part of a running broker.
"""
