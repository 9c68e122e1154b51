"""The protocol: bytes to packets and back, topics, properties, one connection's state.

Pure: bytes in, packets or errors out. Called by every room above. Never imports asyncio, clocks,
sockets, or another room of this project.
"""
