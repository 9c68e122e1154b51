"""When the pods of a broker may be replaced: how many brokers at once, and in which windows.

Pure. Called by ``reconcile`` before anything is written; owns the annotations of workloads by which
it decides.
"""
