"""Counters, metrics, traces and logs, and how they leave the process.

Owns the closed sets of reasons that are counted. Hot paths increment integers; everything else
happens at collection. Only ``metrics`` imports prometheus_client, only ``otlp`` opentelemetry.
"""
