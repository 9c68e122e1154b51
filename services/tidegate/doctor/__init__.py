"""What is wrong with a broker's surroundings, or will be: files, store, ports, clocks, limits.

Owns the examinations of ``tidegate doctor`` and their sentences. Entered by the command line; reads
and connects, changes nothing, and works beside a running broker.
"""
