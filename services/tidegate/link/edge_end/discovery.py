"""The addresses of routers: names in the configuration, resolved at each call. Owns no state."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

log = logging.getLogger(__name__)


async def resolve(places: Sequence[str]) -> tuple[set[str], bool]:
    """Return the addresses of all places, and whether every name was resolved.

    A place is HOST:PORT, with every address of the host (a headless Service has one for each pod),
    or unix:PATH.
    """
    loop = asyncio.get_running_loop()
    found: set[str] = set()
    complete = True
    for place in places:
        if place.startswith("unix:"):
            found.add(place)
            continue
        host, _, port = place.rpartition(":")
        try:
            answers = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            # A headless Service without ready pods has no addresses at all.
            log.debug("router address not resolved", extra={"place": place, "reason": str(error)})
            complete = False
            continue
        for family, *_, address in answers:
            numeric, number = str(address[0]), int(address[1])
            name = f"[{numeric}]" if family == socket.AF_INET6 else numeric
            found.add(f"{name}:{number}")
    return found, complete
