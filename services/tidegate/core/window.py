"""What is in flight to one connected client, and what is queued for it.

``Window`` holds the QoS 1 and 2 exchanges of one connection. It is fed from a ``MemoryQueue`` when
the session is not durable, or by a ``DurableFeed``, the rules for a session whose queue is in the
store. Owned by an edge's client; all of it ends with the connection. No I/O, no clock.

A seq numbers the messages of one incarnation of a session: 1, 2, … The packet identifier is a
function of it, so that a message that is sent again has its original one [MQTT-4.4.0-1].
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from heapq import heapify, heappop, heappush
from typing import Final, Generic, Literal, TypeVar, cast

from tidegate.mqtt.errors import ProtocolViolation

M = TypeVar("M")

PACKET_IDS: Final = 65_535
#: Removed messages that a memory queue may hold the places of, beside as many as it has.
_FEW_GONE: Final = 64


def packet_id_of(seq: int) -> int:
    """Return the packet identifier, 1 to 65535, of a message [MQTT-2.2.1-4]."""
    return (seq - 1) % PACKET_IDS + 1


class DeliveryState(Enum):
    """What an exchange waits for from the client (MQTT5 §4.3)."""

    AWAITING_PUBACK = "puback"
    AWAITING_PUBREC = "pubrec"
    AWAITING_PUBCOMP = "pubcomp"


#: The same as names of this module: looking one up costs less on hot paths.
AWAITING_PUBACK: Final = DeliveryState.AWAITING_PUBACK
AWAITING_PUBREC: Final = DeliveryState.AWAITING_PUBREC
AWAITING_PUBCOMP: Final = DeliveryState.AWAITING_PUBCOMP


class Window(Generic[M]):
    """The QoS 1 and QoS 2 exchanges in flight to one client.

    ``max_in_flight`` is the smaller of our own limit and the client's Receive Maximum
    [MQTT-3.3.4-9]. Packet identifiers the client never got are answered with None: the caller
    sends PUBREL with 0x92 or does nothing.
    """

    __slots__ = ("_exchanges", "_floor", "_max_in_flight", "_next_seq")

    def __init__(self, max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        #: By packet identifier: seq, state, message; no message after PUBREC.
        self._exchanges: dict[int, tuple[int, DeliveryState, M | None]] = {}
        self._next_seq = 1
        # No exchange in flight is older than this; brought up to date only when it matters.
        self._floor = 0

    def __len__(self) -> int:
        """Count the exchanges in flight."""
        return len(self._exchanges)

    def room(self) -> int:
        """Return how many more messages may be started; 0 or more.

        0 too while the oldest exchange still holds the packet identifier of the next message, or
        of one after it that is in flight [MQTT-2.2.1-4].
        """
        if self._next_seq - self._floor >= PACKET_IDS and not self.accepts(self._next_seq):
            return 0
        return max(self._max_in_flight - len(self._exchanges), 0)

    def accepts(self, seq: int) -> bool:
        """Say whether ``seq`` may be started as far as packet identifiers go.

        To ask before a message whose seq does not follow on the last one. If refused, it is taken
        for the next one to come, and ``room`` is 0 until it would be accepted.
        """
        if seq - self._floor < PACKET_IDS:
            return True
        if not self._is_in_flight(self._floor):
            self._floor = self._oldest(seq)
        if seq - self._floor < PACKET_IDS:
            return True
        self._next_seq = seq
        return False

    def start(self, seq: int, qos: int, message: M) -> int:
        """Note that a message is being sent with QoS 1 or 2; return its packet identifier."""
        packet_id = (seq - 1) % PACKET_IDS + 1
        state = AWAITING_PUBACK if qos == 1 else AWAITING_PUBREC
        self._exchanges[packet_id] = (seq, state, message)
        self._next_seq = seq + 1
        # Sent again, after a younger one that had been released. (min() would cost a call.)
        if seq < self._floor:  # noqa: PLR1730
            self._floor = seq
        return packet_id

    def start_released(self, seq: int) -> int:
        """Take up a QoS 2 exchange whose PUBREC had come; return the identifier for PUBREL."""
        packet_id = packet_id_of(seq)
        self._exchanges[packet_id] = (seq, AWAITING_PUBCOMP, None)
        self._floor = min(self._floor, seq)
        self._next_seq = max(self._next_seq, seq + 1)
        return packet_id

    def on_puback(self, packet_id: int) -> int | None:
        """End a QoS 1 exchange; return its seq, None if there is none.

        Raises ProtocolViolation if the message was sent with QoS 2.
        """
        exchange = self._exchanges.pop(packet_id, None)
        if exchange is None:
            return None
        if exchange[1] is not AWAITING_PUBACK:
            self._exchanges[packet_id] = exchange
            raise ProtocolViolation("PUBACK for a QoS 2 message", statement="MQTT-4.3.3-8")
        return exchange[0]

    def on_pubrec(
        self, packet_id: int, reason_code: int = 0
    ) -> tuple[Literal["release", "done"], int] | None:
        """Take the first answer to a QoS 2 message, and forget the message.

        ``("release", seq)``: send PUBREL [MQTT-4.3.3-4], also when PUBREC comes again.
        ``("done", seq)``: the client refused it (0x80 or above), the exchange is over. None:
        unknown. Raises ProtocolViolation if the message was sent with QoS 1.
        """
        exchange = self._exchanges.get(packet_id)
        if exchange is None:
            return None
        seq, state, _ = exchange
        if state is AWAITING_PUBACK:
            raise ProtocolViolation("PUBREC for a QoS 1 message", statement="MQTT-4.3.2-4")
        if reason_code >= 0x80:
            del self._exchanges[packet_id]
            return "done", seq
        self._exchanges[packet_id] = (seq, AWAITING_PUBCOMP, None)
        return "release", seq

    def on_pubcomp(self, packet_id: int) -> int | None:
        """End a QoS 2 exchange; return its seq, None if there is none.

        Raises ProtocolViolation if the message was sent with QoS 1, or PUBREC has not come.
        """
        exchange = self._exchanges.get(packet_id)
        if exchange is None:
            return None
        if exchange[1] is not AWAITING_PUBCOMP:
            raise ProtocolViolation(
                "PUBCOMP before PUBREC, or for a QoS 1 message", statement="MQTT-4.3.3-11"
            )
        del self._exchanges[packet_id]
        return exchange[0]

    def unacknowledged(self) -> list[tuple[int, DeliveryState, M | None]]:
        """Return (seq, state, message) of every exchange in seq order; no message after PUBREC."""
        return sorted(self._exchanges.values(), key=_seq_of)

    def _is_in_flight(self, seq: int) -> bool:
        exchange = self._exchanges.get(packet_id_of(seq))
        return exchange is not None and exchange[0] == seq

    def _oldest(self, default: int) -> int:
        return min((exchange[0] for exchange in self._exchanges.values()), default=default)


def _seq_of(exchange: tuple[int, DeliveryState, M | None]) -> int:
    return exchange[0]


class _Waiting(Generic[M]):
    """A message in a ``MemoryQueue``; ``size_bytes`` is negative when it is not there any more."""

    __slots__ = ("expires_at_ms", "message", "number", "size_bytes")

    def __init__(self, message: M, size_bytes: int, expires_at_ms: int, number: int) -> None:
        self.message: M | None = message
        self.size_bytes = size_bytes
        self.expires_at_ms = expires_at_ms
        self.number = number

    def remove(self) -> M:
        """Return the message, and mark it as gone."""
        message, self.message, self.size_bytes = self.message, None, -1
        return cast("M", message)  # it has one until it is removed


class MemoryQueue(Generic[M]):
    """Messages that wait for a connected client whose session is not durable, in order, bounded.

    ``policy`` is what happens when it is full: ``drop_newest`` refuses, ``drop_oldest`` makes
    room. Sizes are bytes, whatever the caller counts as such. A message that has expired holds no
    place, and is removed at the next ``offer`` or ``remove_expired`` [MQTT-3.3.2-5].
    """

    __slots__ = (
        "_bytes",
        "_drops_oldest",
        "_expiries",
        "_max_bytes",
        "_max_messages",
        "_number",
        "_waiting",
        "count",
        "last_dropped",
        "last_dropped_count",
        "last_expired",
    )

    def __init__(
        self,
        max_messages: int,
        max_bytes: int,
        policy: Literal["drop_newest", "drop_oldest"] = "drop_newest",
    ) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._drops_oldest = policy == "drop_oldest"
        #: In order; those that have expired stay, as gone, until they are at the front.
        self._waiting: deque[_Waiting[M]] = deque()
        #: Those of them that expire, as a heap: when, number. Some may be gone.
        self._expiries: list[tuple[int, int, _Waiting[M]]] = []
        #: Messages that wait. Read for each message: ``len`` would be a call.
        self.count = 0
        self._bytes = 0
        self._number = 0
        #: Messages that the last ``offer`` dropped: with drop_oldest a large one may cost several.
        self.last_dropped_count = 0
        #: These messages.
        self.last_dropped: list[M] = []
        #: Messages that the last ``offer`` has removed because they had expired.
        self.last_expired: list[M] = []

    def __len__(self) -> int:
        """Count the waiting messages."""
        return self.count

    @property
    def size_bytes(self) -> int:
        """Bytes of the waiting messages."""
        return self._bytes

    @property
    def expires(self) -> bool:
        """Whether any of the waiting messages may expire."""
        return bool(self._expiries)

    def offer(
        self, message: M, size_bytes: int, expires_at_ms: int = 0, now_ms: int = 0
    ) -> Literal["queue_full", "queue_bytes"] | None:
        """Queue a message, or drop it or older ones; return why something was dropped, or None.

        ``last_dropped_count`` says how many were. ``expires_at_ms`` 0: it does not expire.
        """
        self.last_expired = self.remove_expired(now_ms) if self._expiries else []
        reason: Literal["queue_full", "queue_bytes"] | None = None
        dropped = 0
        if self.count >= self._max_messages:
            reason = "queue_full"
        elif self._bytes + size_bytes > self._max_bytes:
            reason = "queue_bytes"
        if reason is not None:
            if not self._drops_oldest or size_bytes > self._max_bytes:
                self.last_dropped_count = 1
                self.last_dropped = [message]
                return reason
            removed: list[M] = []
            while self.count and (
                self.count >= self._max_messages or self._bytes + size_bytes > self._max_bytes
            ):
                removed.append(cast("M", self.take()))  # there is one
            self.last_dropped = removed
            dropped = len(removed)
        self._number += 1
        entry = _Waiting(message, size_bytes, expires_at_ms, self._number)
        self._waiting.append(entry)
        if expires_at_ms:
            heappush(self._expiries, (expires_at_ms, self._number, entry))
        self.count += 1
        self._bytes += size_bytes
        self.last_dropped_count = dropped
        return reason

    def remove(self, is_unwanted: Callable[[M], bool]) -> list[M]:
        """Remove some of the messages; return these."""
        removed = [
            self._remove(entry)
            for entry in self._waiting
            if entry.size_bytes >= 0 and is_unwanted(cast("M", entry.message))
        ]
        self._forget_gone()
        return removed

    def take(self) -> M | None:
        """Return the next message, None when there is none; who takes it looks at its expiry."""
        waiting = self._waiting
        while waiting:
            entry = waiting.popleft()
            if entry.size_bytes >= 0:
                message = self._remove(entry)
                self._forget_gone()
                return message
        return None

    def remove_expired(self, now_ms: int) -> list[M]:
        """Remove the messages that have expired, and return them."""
        expiries = self._expiries
        removed: list[M] = []
        while expiries and expiries[0][0] <= now_ms:
            entry = heappop(expiries)[2]
            if entry.size_bytes >= 0:
                removed.append(self._remove(entry))
        if removed:
            self._forget_gone()
        return removed

    def _remove(self, entry: _Waiting[M]) -> M:
        self.count -= 1
        self._bytes -= entry.size_bytes
        return entry.remove()

    def _forget_gone(self) -> None:
        """Remove what is gone from both lists, when it is most of one: its cost is spread."""
        most = 2 * self.count + _FEW_GONE
        if len(self._waiting) > most:
            self._waiting = deque(entry for entry in self._waiting if entry.size_bytes >= 0)
        if len(self._expiries) > most:
            self._expiries = [item for item in self._expiries if item[2].size_bytes >= 0]
            heapify(self._expiries)


class DurableFeed(Generic[M]):
    """In which order the entries of a stored queue go to a connected client.

    Entries reach the edge in two ways: pushed one by one right after they were queued, and read
    from the store in answer to a fetch. Each goes out once, in seq order, whatever the order in
    which pushes, fetch replies and acknowledgements come. A push that cannot be sent at once, or
    that does not follow on what went before, is not kept: the feed has then fallen *behind*, and
    wants a fetch when there is room. So no backlog sits in memory.

    A seq may never come: its entry expired or was dropped to make room. Only an answer of the
    store proves that, never the absence of a push.

    With ``max_held`` above 0, up to that many pushes are kept that come while a fetch is under way
    or the window is full; the caller sends what ``take`` returns whenever there is room.
    """

    __slots__ = (
        "_early",
        "_fetch_unbounded",
        "_fetching",
        "_have",
        "_held_bytes",
        "_highest",
        "_known_at_fetch",
        "_max_held",
        "_max_held_bytes",
        "_missed",
        "_more",
        "_ready",
        "_released",
    )

    def __init__(self, max_held: int = 0, max_held_bytes: int = 262_144) -> None:
        self._max_held = max_held
        self._max_held_bytes = max_held_bytes
        # Every seq up to _have has been handed out, stands in _ready, or is gone for good.
        self._have = 0
        self._ready: deque[tuple[int, M, int]] = deque()
        self._early: dict[int, tuple[M, int]] = {}
        self._held_bytes = 0
        # The highest seq that is known to have been queued, and the highest that was not kept.
        self._highest = 0
        self._missed = 0
        # The store may have entries above _have whose pushes have not come.
        self._more = False
        self._fetching = False
        self._known_at_fetch = 0
        self._fetch_unbounded = False
        self._released: frozenset[int] = frozenset()

    def begin(self, last_seq: int) -> None:
        """Start with an empty queue whose last entry was ``last_seq`` (0: never had one)."""
        self._have = self._highest = last_seq

    def resume(self, released: Iterable[int], last_seq: int = 0) -> None:
        """Start at the beginning of the queue, without the entries whose PUBREC has come.

        ``last_seq`` is the last one queued so far; without it, the first push takes a fetch when
        the entries before it are gone.
        """
        self._released = frozenset(released)
        self._highest = last_seq
        self._more = True

    @property
    def behind(self) -> bool:
        """Whether there are, or may be, entries that have not been handed out."""
        return self._more or self._highest > self._have or bool(self._ready)

    def pushed(self, seq: int, entry: M, room: int, size_bytes: int = 0) -> bool:
        """Take a push; True if the caller must send this entry now (there was ``room`` for it).

        Otherwise it is a duplicate, is held, or will be fetched. With ``max_held``, ``take`` may
        have more to send after True.
        """
        if seq <= self._have or seq in self._early or seq in self._released:
            return False
        self._highest = max(self._highest, seq)
        follows = seq == self._have + 1
        if follows and room > 0 and not self._ready and not self._fetching:
            self._have = seq
            if self._early:
                self._join_early()
            return True
        if (
            len(self._ready) + len(self._early) >= self._max_held
            or self._held_bytes + size_bytes > self._max_held_bytes
            # Behind a hole there is no use in keeping more, except what comes while the fetch that
            # fills it is under way.
            or (not self._fetching and (self._missed > self._have or not follows))
        ):
            self._missed = max(self._missed, seq)
            return False
        self._held_bytes += size_bytes
        if follows:
            self._have = seq
            self._ready.append((seq, entry, size_bytes))
            self._join_early()
        else:
            self._early[seq] = (entry, size_bytes)
        return False

    def take(self, room: int) -> list[tuple[int, M]]:
        """Return up to ``room`` held entries that must be sent now, in order."""
        ready = self._ready
        taken: list[tuple[int, M]] = []
        while ready and len(taken) < room:
            seq, entry, size_bytes = ready.popleft()
            self._held_bytes -= size_bytes
            taken.append((seq, entry))
        return taken

    def wants_fetch(self, room: int) -> int | None:
        """Return the seq after which to read the queue now, None when there is nothing to do.

        Ask for no more than ``room`` entries. Never while a fetch is under way.
        """
        if self._fetching or room <= len(self._ready):
            return None
        if self._more or self._missed > self._have:
            return self._have
        return None

    def fetch_started(self) -> None:
        """The fetch that ``wants_fetch`` named is under way."""
        self._fetching = True
        self._known_at_fetch = self._highest
        self._fetch_unbounded = self._more
        self._more = False

    def fetch_failed(self) -> None:
        """There will be no answer; ``wants_fetch`` asks again."""
        self._fetching = False
        self._more = True

    def fetched(
        self,
        entries: Sequence[tuple[int, M]],
        complete: bool,
        room: int | None = None,
        accepts: Callable[[int], bool] | None = None,
    ) -> list[tuple[int, M]]:
        """Take the answer, in seq order; return what must be sent now.

        ``complete``: the queue held no more than this; False if a count or size limit may have cut
        it, or if that is not known (an empty answer then ends the reading). ``room`` limits what
        is returned, the rest is for ``take`` (None: no limit). ``accepts`` is ``Window.accepts``:
        from the first seq that it refuses, the entries are left in the store.
        """
        self._fetching = False
        refused = False
        for seq, entry in entries:
            if seq <= self._have:
                continue
            if seq not in self._released:
                if accepts is not None and not accepts(seq):
                    refused = True
                    break
                self._ready.append((seq, entry, 0))
            self._have = seq
        if not entries:
            # What had been queued before the question and is not there any more is gone. A short
            # answer is no proof of it (its size may have cut it), an empty one is.
            self._have = max(self._have, self._known_at_fetch)
        if self._early:
            for seq in [seq for seq in self._early if seq <= self._have]:
                self._held_bytes -= self._early.pop(seq)[1]
            self._join_early()
            if self._early:
                self._missed = max(self._missed, *self._early)
        # Entries behind a cut answer are on their way as pushes, unless we asked because some of
        # those may have been lost.
        if refused or (
            entries
            and (self._known_at_fetch > self._have or (self._fetch_unbounded and not complete))
        ):
            self._more = True
        return self.take(len(self._ready) if room is None else room)

    def resync(self) -> None:
        """Read the queue when there is room: pushes may have been lost (a router has ended)."""
        self._more = True

    def clear(self) -> None:
        """Keep no entry: the connection has ended."""
        self._ready.clear()
        self._early.clear()
        self._held_bytes = 0

    def _join_early(self) -> None:
        """Move held pushes that follow on now behind the ready ones."""
        early = self._early
        while early and (held := early.pop(self._have + 1, None)) is not None:
            self._have += 1
            self._ready.append((self._have, *held))
