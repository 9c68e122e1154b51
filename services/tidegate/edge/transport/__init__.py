"""Listeners and the byte streams they accept: TCP, TLS, WebSocket, PROXY protocol.

Owns listening sockets, certificates in use, and connections until a handler has them. Entered by
``roles``; it feeds handlers and is written to through ``Channel``. Never knows MQTT or a client.
"""
