"""The process beside each server of a replicated bundled store (docs/adr/0025): it runs Sentinel,
decides with which role the server starts, hands over before it stops, and reports replication.

Started as ``python -m tidegate_operator.store_member``; imports nothing of the operator but names.
"""
