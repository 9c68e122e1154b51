"""Why reading from a client is paused: bits, so that it goes on when no reason is left.

Set and cleared through ``Client.hold_reading`` and ``Client.let_read``.
"""

from __future__ import annotations

from typing import Final

#: An answer that must keep the order is outstanding (CONNECT, SUBSCRIBE, UNSUBSCRIBE, AUTH).
BUSY: Final = 1
#: As many publishes as may be are not acknowledged yet.
UNANSWERED: Final = 2
#: The client does not take what it is sent.
SLOW: Final = 4
#: It has published more than its rate allows.
RATE: Final = 8
#: It is about to be disconnected: what it has sent is answered, nothing more is read.
LEAVING: Final = 16
