"""Backups: Jobs for ``MqttBackup``, the schedule and the restore of a broker, and their status.

Used by ``handlers`` (``controller``) and by ``reconcile`` (``schedule``, ``restore``).
"""
