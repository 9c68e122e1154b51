"""Certificates and Secrets: those that the operator creates, and those that specs refer to.

Pure: objects and the time in, objects and problems out. Used by ``reconcile``, ``handlers``,
``render`` and ``status``. Never accesses the API server.
"""
