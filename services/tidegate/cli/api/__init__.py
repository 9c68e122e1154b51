"""``tidegate ctl`` on the API of the console: clients, topics, messages, nodes of a whole broker.

Owns how answers look on a terminal. Added to the command line by ``cli.main``. Imports nothing of
the broker's, and decides nothing: it asks, and prints.
"""
