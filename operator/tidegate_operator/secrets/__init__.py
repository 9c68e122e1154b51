"""Certificates and Secrets: those that brokers own, and those that their specs refer to.

Pure: objects and the time in, objects and problems out. Entered by ``reconcile``, ``render`` and
``conditions``. Never reads or writes the API server.
"""
