"""What a client is doing: the state of its connection, and the reasons why reading is paused.

Constants only. ``Client`` owns its state; ``PacketQueue`` owns the pause reasons, which are set and
cleared through ``pause_reading`` and ``resume_reading``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class ClientState(Enum):
    """The state of one connection, from accept to its end; it only ever goes forward."""

    CONNECTING = "connecting"
    """No CONNACK with success has been sent yet."""
    CONNECTED = "connected"
    CLOSED = "closed"


#: The same as names of this module: looking one up costs less on hot paths.
CONNECTING: Final = ClientState.CONNECTING
CONNECTED: Final = ClientState.CONNECTED
CLOSED: Final = ClientState.CLOSED

# Pause reasons are bits: several may hold at once.

#: An answer that must keep the order is outstanding (CONNECT, SUBSCRIBE, UNSUBSCRIBE, AUTH).
ANSWERING: Final = 1
#: As many publishes as the Receive Maximum allows are not acknowledged yet.
UNACKNOWLEDGED: Final = 2
#: The client does not read what it is sent.
SLOW: Final = 4
#: The client has exceeded its publish rate.
RATE: Final = 8
#: The client is about to be disconnected: what it has sent is answered, nothing more is read.
DISCONNECTING: Final = 16
#: No router takes publishes (``Edge.pause_publishing``), and this client has sent one.
NO_ROUTER: Final = 32

#: Packets wait in order behind these, and a bounded number of them is read ahead.
QUEUEING: Final = ANSWERING | UNACKNOWLEDGED | NO_ROUTER
#: Nothing is read at all under these.
STOPPING: Final = SLOW | RATE | DISCONNECTING
