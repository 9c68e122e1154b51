"""The script's results, read into the values of ``api``.

Pure. The comments in ``scripts/*.lua`` describe the results; called by ``redis_store`` and
``coordination``.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

from tidegate.mqtt.packets import SubscriptionOptions
from tidegate.store.api import (
    AbandonedQueue,
    AppendOutcome,
    AppendReply,
    AttachReply,
    Change,
    Changes,
    ConnectionFenced,
    DetachReply,
    DueWill,
    DueWork,
    EdgeLost,
    EndedSession,
    LateRequest,
    OfflineMember,
    OwnedByAnother,
    RetainedAdded,
    RetainedRemoved,
    RouterRecord,
    SessionEnded,
    SessionSubscribed,
    SessionUnsubscribed,
    StoredSubscriptions,
    StoreUnavailable,
    TooManySessions,
    WriterFenced,
)
from tidegate.store.records import decode_options

#: (client identifier, incarnation) → its number within one operation, from 1, in that order.
Queues: TypeAlias = dict[tuple[str, int], int]

_OUTCOMES = {
    0: AppendOutcome.QUEUE_FULL,
    -1: AppendOutcome.NO_SESSION,
    -2: AppendOutcome.DUPLICATE,
    -4: AppendOutcome.STORE_FULL,
    -5: AppendOutcome.QUEUE_BYTES,
}
#: A position in a change log is the id of an entry as one number: its milliseconds, shifted, and
#: its counter within the millisecond. It fits a signed 64-bit integer until the year 2248.
_COUNTER_BITS = 20
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1


def entry_id(position: int) -> bytes:
    """The id of the log entry at a position; "0-0" comes before all."""
    return b"%d-%d" % (position >> _COUNTER_BITS, position & _COUNTER_MASK)


def attach_reply(result: list[Any]) -> AttachReply:
    """Read ``attach``'s result. Raises as ``Store.attach``."""
    if not result[0]:
        if len(result) == 1:
            raise WriterFenced
        if not result[1]:
            raise OwnedByAnother
        if result[1] == -2:
            raise LateRequest
        if result[1] < 0:
            raise TooManySessions
        return AttachReply(0, 0, False, taken_epoch=result[1])
    if len(result) == 1:
        return AttachReply(result[0], 0, False)
    options = result[14]
    wraps = result[15]
    return AttachReply(
        epoch=result[0],
        incarnation=result[1],
        session_present=result[2] == 1,
        previous_edge=result[3].decode(),
        previous_epoch=result[4],
        discarded_incarnation=result[5],
        wills=due_wills(result[6]),
        fence_position=position_of(result[7]) if result[7] else 0,
        sent_seq=result[8],
        sent_uncertain=result[9] == 1,
        last_seq=result[10],
        queued_count=result[11],
        receipts=result[12],
        released=sorted(map(int, result[13])),
        subscriptions=_subscriptions(options),
        replays=_replays(result[16]),
        receipt_wraps={int(wraps[n]): int(wraps[n + 1]) for n in range(0, len(wraps), 2)},
    )


def detach_reply(client_id: str, result: Any) -> DetachReply:
    """Read ``detach``'s result."""
    if type(result) is int:
        return DetachReply(fenced=result == 0)
    incarnation, will_id, record = result
    ended = EndedSession(client_id, incarnation) if incarnation else None
    return DetachReply(False, ended, due_wills([will_id, record]) if will_id else [])


def _replays(pairs: list[bytes]) -> list[tuple[str, str, str]]:
    found = []
    for n in range(0, len(pairs), 2):
        generation, _, topic = pairs[n + 1].decode().partition(" ")
        found.append((pairs[n].decode(), generation, topic))
    return found


def _subscriptions(pairs: list[bytes]) -> list[tuple[str, SubscriptionOptions]]:
    return [(pairs[n].decode(), decode_options(pairs[n + 1])) for n in range(0, len(pairs), 2)]


def read_appends(result: list[Any], queues: Queues, reply: AppendReply) -> None:
    """Add the outcomes and locations of one operation to those of the others."""
    if type(result[-1]) is list:
        names, removed = list(queues), result.pop()
        for n in range(0, len(removed), 3):
            key = names[removed[n] - 1]
            count, topic = reply.evicted.get(key, (0, ""))
            topic = topic or removed[n + 2].decode("utf-8", "replace")
            reply.evicted[key] = (count + removed[n + 1], topic)
    at = len(result) - 2 * len(queues)
    try:
        reply.outcomes += [
            int(seq[2:]) if type(seq) is bytes else _OUTCOMES[seq] for seq in result[:at]
        ]
    except KeyError:
        raise WriterFenced from None
    for key in queues:
        if result[at]:
            reply.locations[key] = (result[at].decode(), int(result[at + 1]))
        at += 2


def join_appends(
    count: int, places: Sequence[Sequence[int]], replies: Sequence[AppendReply | BaseException]
) -> AppendReply:
    """Join the replies for parts of a list; ``places``: the index of each part's appends in it.

    Raises what a part has failed with, unless only some of the servers are not available.
    """
    failures = [reply for reply in replies if isinstance(reply, BaseException)]
    others = [failure for failure in failures if not isinstance(failure, StoreUnavailable)]
    if others or (failures and len(failures) == len(replies)):
        raise (others or failures)[0]
    whole = AppendReply([AppendOutcome.UNAVAILABLE] * count)
    for chosen, reply in zip(places, replies, strict=True):
        if isinstance(reply, AppendReply):
            whole.locations.update(reply.locations)
            whole.evicted.update(reply.evicted)
            for place, outcome in zip(chosen, reply.outcomes, strict=True):
                whole.outcomes[place] = outcome
    return whole


def router_records(pairs: list[bytes], now_ms: int) -> list[RouterRecord]:
    """Read instance, lease and positions, instance, …, without those whose lease has ended."""
    records = []
    for n in range(0, len(pairs), 2):
        ends_at_ms, _, packed = pairs[n + 1].partition(b":")
        if int(ends_at_ms) > now_ms:
            positions = struct.unpack(f">{len(packed) // 8}Q", packed)
            records.append(RouterRecord(pairs[n].decode(), list(positions)))
    return records


def position_of(entry: bytes | int) -> int:
    """Turn the id of a log entry, milliseconds-counter, into one number of the same order."""
    if type(entry) is int:
        return entry
    milliseconds, counter = cast("bytes", entry).split(b"-")
    return int(milliseconds) << _COUNTER_BITS | int(counter)


def read_changes(news: list[Any], first: int, reply: Changes) -> None:
    """Add the changes of partitions that were read together, the first of them ``first``."""
    for number, gap, more, entries in news:
        reply.has_gap = reply.has_gap or gap == 1
        reply.more = reply.more or more == 1
        for _, words in entries:
            change = _change(words)
            if change is None:
                reply.has_gap = True
            else:
                reply.changes.append(change)
        if entries:
            reply.positions[first + number - 1] = position_of(entries[-1][0])


def _change(words: list[bytes]) -> Change | None:
    """Read an entry of the log; None for a kind that this version does not know."""
    kind, name = words[0], words[1].decode()
    match kind:
        case b"s":
            return SessionSubscribed(name, int(words[3]), tuple(_subscriptions(words[4:])))
        case b"u":
            return SessionUnsubscribed(
                name, int(words[3]), tuple(word.decode() for word in words[4::2])
            )
        case b"f":
            return ConnectionFenced(name, words[3].decode(), int(words[5]))
        case b"x":
            return EdgeLost(name)
        case b"e":
            return SessionEnded(name, int(words[3]))
        case b"r":
            return RetainedAdded(name)
        case b"d":
            return RetainedRemoved(name)
    return None


def stored_sessions(found: list[Any]) -> list[StoredSubscriptions]:
    """Read a page of ``durable_sessions``."""
    return [
        StoredSubscriptions(
            client_id=found[n].decode(),
            incarnation=int(found[n + 1]),
            edge_id=found[n + 2].decode(),
            epoch=int(found[n + 3]),
            subscriptions=_subscriptions(found[n + 4]),
        )
        for n in range(0, len(found), 5)
    ]


def due_wills(pairs: list[bytes]) -> list[DueWill]:
    """Read wills: identifier, record, identifier, record, …"""
    wills = []
    for n in range(0, len(pairs), 2):
        will_id = pairs[n].decode()
        epoch, _, client_id = will_id.partition(":")
        wills.append(DueWill(will_id, client_id, int(epoch), pairs[n + 1]))
    return wills


def due_work(result: list[Any]) -> DueWork:
    """Read what a sweep found; only ``sweep_due`` returns queues and members."""
    ended, wills = result[:2]
    queues, members = result[2:] if len(result) > 2 else ([], [])
    return DueWork(
        [EndedSession(ended[n].decode(), int(ended[n + 1])) for n in range(0, len(ended), 2)],
        due_wills(wills),
        [
            AbandonedQueue(
                queues[n].decode(), int(queues[n + 1]), int(queues[n + 2]), queues[n + 3] == b"1"
            )
            for n in range(0, len(queues), 4)
        ],
        [
            OfflineMember(
                members[n].decode(),
                int(members[n + 1]),
                int(members[n + 2]),
                int(members[n + 3]),
                members[n + 4] == b"1",
            )
            for n in range(0, len(members), 5)
        ],
    )
