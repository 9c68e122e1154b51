"""The operations of the script: one letter each, as ``scripts/dispatch.lua`` maps them.

Constants for ``redis_store``, ``coordination`` and ``client.lanes``. ``docs/storage.md`` lists what
each operation does; the comments in ``scripts/*.lua`` give arguments and results.
"""

from __future__ import annotations

from typing import Final

# Run often: their functions exist in every call of the script.
APPEND: Final = b"A"
COMPLETE: Final = b"C"
FETCH: Final = b"F"
GET_RETAINED: Final = b"G"
COMMAND: Final = b"K"
RELEASE: Final = b"L"
SET_RETAINED: Final = b"M"
RECEIPT: Final = b"R"

# Run rarely.
DURABLE_SESSIONS: Final = b"B"
DETACH: Final = b"D"
SWEEP_EDGES: Final = b"E"
LOG_ENDS: Final = b"H"
RENEW_LEASE: Final = b"I"
CHANGES: Final = b"J"
ATTACH: Final = b"N"
RENEW_ROUTER: Final = b"O"
WILL_PUBLISHED: Final = b"P"
ANNOUNCE_LEASE: Final = b"Q"
SUBSCRIBE: Final = b"S"
LEASED_EDGES: Final = b"T"
UNSUBSCRIBE: Final = b"U"
VERIFY: Final = b"V"
SWEEP_DUE: Final = b"W"
SET_EXPIRY: Final = b"X"
EXPIRED_RETAINED: Final = b"Y"
FENCE_WRITER: Final = b"Z"
ABANDON_ENTRIES: Final = b"a"
REPLAYED: Final = b"g"
WITHDRAW_CONNECT: Final = b"p"
VERIFY_WILLS: Final = b"q"
RETURN_ENTRIES: Final = b"j"
EXPIRE_QUEUED: Final = b"d"
CLAIM: Final = b"e"
RETAINED_USE: Final = b"k"
USER_SESSIONS: Final = b"n"
TRIM_ABANDONED: Final = b"l"
SCHEDULE_CHECKS: Final = b"m"
READ_TIME: Final = b"h"
SKIP_EPOCHS: Final = b"o"
READ_HISTORY: Final = b"b"
REPLACE_HISTORY: Final = b"f"
SWEEP_HISTORY: Final = b"c"
READ_CLIENT: Final = b"r"
READ_QUEUE: Final = b"s"
READ_RETAINED: Final = b"t"
RECORD: Final = b"i"
