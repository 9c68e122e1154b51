"""A small store with a bit of everything, and its backup: what a later version has to restore.

``python -m support.sample_backup URL FILE`` (in ``tests``) writes one with the version of Tidegate
that is on the path, into an empty store; ``tests/vectors/backups`` has those of earlier versions.
Uses only what these versions have, too.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any, Final

from support.backups import take
from tidegate.mqtt.packets import Publish, SubscriptionOptions, Will
from tidegate.runtime.config.model import LimitsConfig, StoreConfig
from tidegate.store.api import Append, AttachReply, AttachRequest, DetachRequest, RetainedCharge
from tidegate.store.records import encode_queued, encode_retained, encode_will
from tidegate.store.redis_store import RedisStore

#: Long ago, so that only what never ends is in it.
NOW_MS: Final = 1_700_000_000_000
NEVER_S: Final = 4_294_967_295
FILTERS: Final = [
    ("plant/+", SubscriptionOptions(2)),
    ("é/#", SubscriptionOptions(1, no_local=True, subscription_identifier=7)),
]
SHARED: Final = [("$share/g/jobs", SubscriptionOptions(1))]
#: The first one is delivered; the second has a group, the third properties.
RECORDS: Final = [
    encode_queued(Publish("plant/1", b"one", 1), 1, False),
    encode_queued(Publish("jobs", b"two", 1), 1, False, (), 0, "g/jobs"),
    encode_queued(Publish("é/x", bytes(range(256)), 1, properties=b"\x01\x01"), 1, True, (7,)),
]
RETAINED: Final = {
    "plant/state": encode_retained(Publish("plant/state", b"on", 1), NOW_MS),
    "é": encode_retained(Publish("é", b"", 2, properties=b"\x01\x01"), NOW_MS),
}
WILL: Final = encode_will(Will("gone", b"bye", 1, True), "connected", "ann")


async def connect(url: str) -> RedisStore:
    """Connect to a store as a broker does."""
    config = StoreConfig(url=url)
    return await RedisStore.connect(url=url, limits=LimitsConfig(), store=config)


async def attach(store: RedisStore, client: str, **more: Any) -> AttachReply:
    """Open a session that never ends."""
    return await store.attach(
        AttachRequest(client, "e1", False, NEVER_S, NOW_MS, user="ann", **more)
    )


async def fill(store: RedisStore) -> None:
    """Make one session that is offline, with a queue, and one that is connected, with a will."""
    found = await attach(store, "offline")
    await store.subscribe("offline", found.epoch, [*FILTERS, *SHARED], "g1")
    await store.append([Append("offline", found.incarnation, one) for one in RECORDS])
    await store.complete("offline", found.epoch, [1])
    await store.release("offline", found.epoch, [2])
    await store.receipt("offline", found.epoch, 9, 3)
    await store.detach(DetachRequest("offline", found.epoch, NOW_MS, False, None, 2))
    await attach(store, "connected", will=WILL)
    for topic, record in RETAINED.items():
        charge = RetainedCharge("offline", None, None, None, None)
        await store.set_retained(topic, record, 0, charge)


async def _write(url: str, file: Path) -> None:
    store = await connect(url)
    await fill(store)
    await store.close()
    await take(url, file)


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], Path(sys.argv[2])))
