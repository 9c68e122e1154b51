"""Which request of an edge it is, and which attempt at it.

A router that hung may bring an attempt after a later one, through another router, has taken effect;
the store refuses it by these numbers.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Attempt(NamedTuple):
    """``number``: of the request at its edge; ``tries``: how often it had been sent before."""

    number: int = 0
    tries: int = 0


#: Of a request that is never sent again.
ONLY_ATTEMPT: Final = Attempt()
