"""Why a client's packets wait, or its socket is not read: bits, as several may hold at once.

Set and cleared through ``Client.pause_reading`` and ``Client.resume_reading``; what they do is
``edge.reading``'s business.
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
#: No router takes publishes now (``Edge.hold_publishing``), and this client has one.
LINK: Final = 32

#: Packets wait in order behind these, and a bounded number of them is read ahead.
WAITING: Final = BUSY | UNANSWERED | LINK
#: Nothing is read at all under these.
STOPPING: Final = SLOW | RATE | LEAVING
