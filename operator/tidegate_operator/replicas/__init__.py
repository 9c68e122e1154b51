"""A replicated bundled store as the operator sees it: what its servers report, the order in which
their pods are replaced, the steps from three servers to one, and the condition. Pure.
"""
