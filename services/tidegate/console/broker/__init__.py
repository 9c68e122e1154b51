"""What the console finds out of clients, topics and messages, from nodes and store together.

Owns deletions that are under way. Called by ``routes``. Knows no request and no role, and decides
nothing that brokers decide: who gets a message is asked of a router, what the ACL says of an edge.
"""
