"""Who a client is, and which topics it may use: password files, access control files.

Owns the parsed files and the queue of password hashes. Entered by ``edge.client``, ``roles`` and
``tidegate passwd``. Never sees a socket or a packet, and answers no client.
"""
